"""Control groups: what they bound, what they end, and where they are found."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sessions import cgroup
from tests.sessions.boxes import Place, alive, isolation, needs_root, own_groups


@pytest.fixture
async def groups() -> AsyncIterator[cgroup.Groups]:
    async with own_groups() as found:
        yield found


async def test_limits_are_those_of_the_contract(groups: cgroup.Groups) -> None:
    group = groups.group("ann")
    group.create()
    texts = {
        path.read_text().strip()
        for folder in group.folders
        for path in (folder / "memory.limit_in_bytes", folder / "memory.max", folder / "pids.max")
        if path.exists()
    }
    assert texts <= {str(2 * 1024**3), "512"}
    assert texts
    assert group.remove()


@pytest.mark.parametrize("kind", ["bwrap", "none"])
async def test_no_more_than_512_processes(kind: str, tmp_path: Path, groups: cgroup.Groups) -> None:
    place = Place(tmp_path, isolation(kind, groups))
    await bounded_at_512(place)


@needs_root
async def test_no_more_than_512_processes_of_a_user_without_control_groups(
    tmp_path: Path,
) -> None:
    await bounded_at_512(Place(tmp_path, isolation("bwrap")))


async def bounded_at_512(place: Place) -> None:
    script = "my $n = 1; while (defined(my $p = fork)) { $p or sleep 1000; $n++; } "
    async with place.running(f"perl -e '$| = 1; {script} print \"$n\\n\"; sleep 1000'") as heard:
        await asyncio.sleep(0)
        while not heard.lines:
            await asyncio.sleep(0.01)
        assert 400 < int(heard.lines[0]) <= 512
        assert len(heard.process.pids()) <= 512 + 3


@pytest.mark.parametrize("kind", ["bwrap", "none"])
async def test_memory_hog_is_killed_and_the_rest_lives(
    kind: str, tmp_path: Path, groups: cgroup.Groups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "MEMORY_LIMIT", 64 * 1024**2)
    place = Place(tmp_path, isolation(kind, groups))
    said = await place.says("(head -c 200M /dev/zero | tail -c 200M >/dev/null); echo and I live")
    assert "Killed" in said or "Terminated" in said or said == "and I live"
    assert said.endswith("and I live")
    assert "200" not in said


async def test_groups_of_an_earlier_server_are_swept(tmp_path: Path, groups: cgroup.Groups) -> None:
    heard = await Place(tmp_path, isolation("none", groups)).start("setsid sleep 1000 & cat")
    pids = heard.process.pids()
    assert await groups.sweep() == 1
    assert alive(pids) == set()
    assert groups.leftovers() == []
    await heard.process.wait()


async def test_version_2_ends_its_own_too(tmp_path: Path) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    if " - cgroup2 " not in mounts:
        pytest.skip("no control groups of version 2 are mounted")
    (tmp_path / "cgroup").write_text("0::/\n")
    (tmp_path / "mountinfo").write_text(mounts)
    groups = cgroup.Groups.find(f"claude-orchestrator-test-{os.getpid()}", proc=tmp_path)
    if groups is None:
        pytest.skip("control groups of version 2 are not writable here")
    try:
        heard = await Place(tmp_path, isolation("none", groups)).start(
            "env -i setsid sleep 1000 & echo up; cat"
        )
        await heard.line("up")
        pids = heard.process.pids()
        assert len(pids) >= 2
        assert heard.process.memory() > 0
        heard.process.kill()
        await heard.process.wait()
        assert alive(pids) == set()
    finally:
        await groups.sweep()
    assert not groups.parents[0].exists()


@pytest.mark.parametrize(
    ("root", "path", "below"),
    [("/", "/a/b", "a/b"), ("/docker/7", "/docker/7", "."), ("/docker/7", "/docker/7/x", "x")],
)
def test_own_group_is_found_in_a_container_too(
    tmp_path: Path, root: str, path: str, below: str
) -> None:
    (tmp_path / "cgroup").write_text(f"4:memory:{path}\n")
    (tmp_path / "mountinfo").write_text(
        f"35 31 0:32 {root} {tmp_path}/cg rw,relatime - cgroup cgroup rw,memory\n"
    )
    assert cgroup.Groups.find("ours", proc=tmp_path) is None
    (tmp_path / "cg" / below / "ours").mkdir(parents=True)
    (tmp_path / "cg" / below / "ours/cgroup.procs").touch()
    groups = cgroup.Groups.find("ours", proc=tmp_path)
    assert groups
    assert groups.parents == (tmp_path / "cg" / below / "ours",)


def test_nothing_is_found_where_there_are_no_groups(tmp_path: Path) -> None:
    assert cgroup.Groups.find("ours", proc=tmp_path) is None


def test_name_that_would_leave_its_folder_is_refused() -> None:
    groups = cgroup.Groups((Path("/nowhere"),), bounds_memory=False, bounds_processes=False)
    for name in ("../x", "a/b", "", ".."):
        with pytest.raises(ValueError, match="cannot name"):
            groups.group(name)
