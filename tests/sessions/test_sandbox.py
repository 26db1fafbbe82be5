"""What a box shows and hides, what it refuses and bounds, and which kind is chosen."""

import asyncio
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from errors import AppError
from sessions import cgroup, seccomp
from sessions.sandbox import CLAUDE, Isolation, Mount, choose, wrap
from tests.sessions.boxes import (
    NO_CLI,
    UID,
    Place,
    isolation,
    needs_bwrap,
    needs_root,
    own_groups,
)

ROOT = Path(__file__).parents[2]
CLI = ROOT / "node_modules/.bin/claude"
SECRET = "sk-ant-not-for-everybody"

needs_cli = pytest.mark.skipif(not CLI.exists(), reason="the CLI is not installed (npm ci)")


@pytest.fixture
def bwrap(tmp_path: Path) -> Place:
    return Place(tmp_path, isolation("bwrap"))


@pytest.fixture
async def groups() -> AsyncIterator[cgroup.Groups]:
    async with own_groups() as found:
        yield found


# What it shows


async def test_the_program_has_the_environment_of_its_box_and_no_more(bwrap: Place) -> None:
    box = bwrap.box(ANTHROPIC_API_KEY=SECRET)
    said = (await bwrap.says("env", box)).splitlines()
    allowed = {**box.env, "PWD": str(box.home)}
    assert {line for line in said if not line.startswith("_=")} == {
        f"{name}={value}" for name, value in allowed.items()
    }


async def test_without_a_sandbox_too(tmp_path: Path) -> None:
    place = Place(tmp_path, isolation("none"))
    box = place.box(ANTHROPIC_API_KEY=SECRET)
    said = await place.says("env", box)
    names = {line.partition("=")[0] for line in said.splitlines()} - {"_"}
    assert names == {*box.env, "PWD", "TMPDIR", "ORCHESTRATOR_BOX"}
    assert f"TMPDIR={box.tmp}" in said.splitlines()


async def test_it_works_in_its_home_with_a_tmp_of_its_own(bwrap: Place) -> None:
    box = bwrap.box()
    assert await bwrap.says("pwd; echo mine >file; echo theirs >/tmp/file", box) == str(box.home)
    assert (box.home / "file").read_text() == "mine\n"
    assert (box.tmp / "file").read_text() == "theirs\n"


async def test_it_starts_in_the_folder_it_is_given(bwrap: Place) -> None:
    box = bwrap.box()
    (box.home / "project").mkdir()
    box = replace(box, cwd=box.home / "project")
    assert await bwrap.says("pwd", box) == str(box.home / "project")


async def test_it_knows_its_own_name_and_nobody_elses(bwrap: Place) -> None:
    said = await bwrap.says("id -un; cut -d: -f1 /etc/passwd", bwrap.box("ann"))
    assert said.splitlines() == ["ann", "root", "ann"]


async def test_the_system_is_there_and_read_only(bwrap: Place) -> None:
    script = "ls /usr/bin/env /etc/hosts /dev/null /dev/shm >/dev/null && echo there; "
    said = await bwrap.says(script + "for f in / /usr /etc; do touch $f/x && echo $f; done")
    assert said.splitlines()[0] == "there"
    assert said.count("Read-only file system") == 3


async def test_more_can_be_shown(bwrap: Place, tmp_path: Path) -> None:
    for name in ("shared", "given"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    mounts = (
        Mount(tmp_path / "shared", Path("/opt/tools/shared")),
        Mount(tmp_path / "given", Path("/srv/given"), writable=True),
    )
    box = replace(bwrap.box(), mounts=mounts)
    said = await bwrap.says("touch /srv/given/x && echo given; touch /opt/tools/shared/x", box)
    assert said.startswith("given\n")
    assert said.endswith("Read-only file system")


async def test_the_cli_has_its_place(bwrap: Place) -> None:
    said = await bwrap.says(f"{CLAUDE} && echo ran; echo >>{CLAUDE} || echo kept")
    assert said.splitlines()[0] == "ran"
    assert said.endswith("kept")


# What it hides


async def test_bwrap_itself_has_no_environment(
    bwrap: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_SECRET", SECRET)
    async with bwrap.running("echo up; cat", bwrap.box(KEY=SECRET)) as heard:
        await heard.line("up")
        outer = heard.process.pid
        [first] = cgroup.children(outer)
        [program] = cgroup.children(first)
        assert Path(f"/proc/{outer}/environ").read_bytes() == b""
        assert Path(f"/proc/{first}/environ").read_bytes() == b""
        assert SECRET.encode() in Path(f"/proc/{program}/environ").read_bytes()


async def test_no_secret_is_on_any_command_line(bwrap: Place) -> None:
    async with bwrap.running("echo up; cat", bwrap.box(KEY=SECRET)) as heard:
        await heard.line("up")
        lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in heard.process.pids()]
    assert len(lines) >= 3
    assert not any(SECRET.encode() in line for line in lines)


async def test_no_descriptor_of_the_server_comes_along(bwrap: Place) -> None:
    with tempfile.TemporaryFile() as file:
        os.set_inheritable(file.fileno(), True)
        assert await bwrap.says("ls /proc/self/fd | tr '\\n' ' '") == "0 1 2 3 "


async def test_two_boxes_do_not_see_each_other(bwrap: Place) -> None:
    bob = bwrap.with_uid("bob", UID + 1)
    async with bwrap.running("echo private >note; cp note /tmp; echo up; cat", bob) as theirs:
        await theirs.line("up")
        async with bwrap.running("sleep 4321 & echo up; cat", bwrap.box("ann")) as mine:
            await mine.line("up")
            said = await bwrap.says(
                f"cat {bob.home}/note; ls {bob.home} {bob.tmp} {bob.home.parent}; cat /tmp/note; "
                "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; echo; ls -d /proc/[0-9]* | wc -l",
                bwrap.box("ann2"),
            )
    assert "private" not in said
    assert "4321" not in said
    assert int(said.rpartition("\n")[2]) < 8


@needs_root
async def test_the_program_has_no_capability_and_gets_none(bwrap: Place) -> None:
    said = await bwrap.says("grep -E '^(Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups)' /proc/self/status")
    fields = dict(re.findall(r"(\w+):[ \t]*(.*)", said))
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(fields[name], 16) == 0, name
    assert fields["NoNewPrivs"] == "1"
    assert fields["Uid"].split() == [str(UID)] * 4
    assert fields["Gid"].split() == [str(UID)] * 4
    assert fields["Groups"].split() in ([], [str(UID)])
    if os.uname().machine in {"x86_64", "aarch64"}:
        assert fields["Seccomp"] == "2"


# What it refuses: each of these shall fail

CALL = "perl -e 'exit(syscall({}) < 0)'"
NEWUSER = 0x10000000
ATTACKS = {
    "mount": "mount -t tmpfs none /tmp",
    "mount in a user namespace of its own": "unshare -Urm mount -t tmpfs none /tmp",
    "user namespace": "unshare -U true",
    "mount namespace": "unshare -m true",
    "network namespace": "unshare -n true",
    "device": "mknod /tmp/disk b 8 0",
    "ptrace of the parent": CALL.format("101, 0x4206, $ARGV[0] + 0, 0, 0") + " $PPID",
    "kill the parent": "kill -9 $PPID",
    "environment of the parent": "grep -q . /proc/$PPID/environ",
    "root of the parent": "ls /proc/$PPID/root/",
    "descriptors of the parent": "ls /proc/$PPID/fd/",
    "namespaces of the parent": "nsenter -t $PPID -m true",
    "core_pattern": "echo x >/proc/sys/kernel/core_pattern",
    "sysrq": "echo h >/proc/sysrq-trigger",
    "loopback down": "ip link set lo down",
    "raw socket": "perl -MSocket -e 'socket(my $s, AF_INET, SOCK_RAW, 1) or exit 1'",
    "shadow": "cat /etc/shadow",
    "become root": "perl -e '$< = $> = 0; exit($> != 0)'",
    "su": "su -c true",
    "kernel log": "head -c 1 /dev/kmsg",
    "hostname": "hostname other",
    "bounding set": CALL.format("157, 24, 0, 0, 0, 0"),
    "more processes than given": "prlimit --nproc=100000:100000 true",
    "keyring": CALL.format("250, 0, -3, 0"),
    "user namespace by clone": CALL.format(f"56, {NEWUSER} | 17, 0, 0, 0, 0"),
    "user namespace by unshare": CALL.format(f"272, {NEWUSER}"),
    "user namespace by x32's unshare": CALL.format(f"0x40000000 + 272, {NEWUSER}"),
    "clone3": CALL.format("435, 0, 0"),
    "type into a terminal": (
        "script -qec 'perl -e \"my \\$c = q(x); exit !ioctl(STDIN, 0x5412, \\$c)\"' /dev/null"
    ),
    "write outside": "touch /x || touch /usr/x || touch /etc/x || touch /dev/x || touch /opt/x",
    "own accounts": "echo 'ann:x:0:0::/:/bin/sh' >>/etc/passwd",
    "the server's folder": f"ls {ROOT}",
    "control groups": "mkdir /tmp/g; mount -t cgroup -o pids none /tmp/g",
}
BY_NUMBER = "perl -e 'exit(syscall"


@needs_root
@pytest.mark.parametrize("attack", ATTACKS)
async def test_attack_fails(bwrap: Place, attack: str) -> None:
    script = ATTACKS[attack]
    if script.startswith(BY_NUMBER) and os.uname().machine != "x86_64":
        pytest.skip("the numbers of the system calls are those of x86_64")
    said = await bwrap.says(f"{script}; echo ended with $?")
    assert not said.endswith("ended with 0"), said
    assert "not found" not in said


@needs_root
@pytest.mark.parametrize(
    "attack",
    [
        "user namespace",
        "user namespace by clone",
        "user namespace by unshare",
        "mount in a user namespace of its own",
        "ptrace of the parent",
        "environment of the parent",
        "root of the parent",
        "descriptors of the parent",
        "namespaces of the parent",
        "shadow",
        "raw socket",
        "become root",
        "type into a terminal",
        "the server's folder",
        "keyring",
    ],
)
async def test_attack_is_known_to_work_without_a_sandbox(tmp_path: Path, attack: str) -> None:
    said = await Place(tmp_path, isolation("none")).says(f"{ATTACKS[attack]}; echo ended with $?")
    assert said.endswith("ended with 0"), said


@needs_root
def test_root_gives_each_box_a_uid(bwrap: Place) -> None:
    with pytest.raises(ValueError, match="uid of its own"):
        wrap(bwrap.isolation, replace(bwrap.box(), uid=None), ["true"], cli=NO_CLI)


@pytest.mark.parametrize("place", ["tmp", "home"])
def test_link_that_an_agent_left_is_not_followed(bwrap: Place, place: str) -> None:
    """Root's bwrap made a folder in /oldroot, which is the host's, through such a link."""
    box = bwrap.box()
    source, base = (box.tmp, Path("/tmp")) if place == "tmp" else (box.home, box.home)
    (source / "way").symlink_to("/oldroot/tmp")
    box = replace(box, mounts=(Mount(Path("/usr"), base / "way/in"),))
    with pytest.raises(AppError, match="may not be a link"):
        wrap(bwrap.isolation, box, ["true"], cli=NO_CLI)


def test_no_filter_where_the_numbers_are_unknown() -> None:
    assert seccomp.rules("m68k") is None
    filters = [seccomp.rules(machine) for machine in ("x86_64", "aarch64")]
    assert all(found and len(found) % 8 == 0 for found in filters)


# Which kind is chosen


@needs_bwrap
@needs_cli
async def test_auto_takes_the_sandbox_that_runs_the_cli(
    tmp_path: Path, groups: cgroup.Groups
) -> None:
    chosen = await choose("auto", CLI, tmp_path, groups=groups)
    assert (chosen.kind, chosen.groups) == ("bwrap", groups)
    assert chosen.reason.endswith(".")
    assert list(tmp_path.iterdir()) == []


async def test_none_is_taken_without_a_trial(tmp_path: Path) -> None:
    chosen = await choose("none", Path("/nowhere/claude"), tmp_path)
    assert chosen == Isolation("none", "ISOLATION=none was asked for.")


async def test_auto_without_bwrap_says_why_there_is_no_sandbox(tmp_path: Path) -> None:
    chosen = await choose("auto", NO_CLI, tmp_path, search_path="/nowhere")
    assert chosen.kind == "none"
    assert chosen.reason == "No sandbox here: bubblewrap is not installed."


async def test_bwrap_that_is_wanted_and_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AppError, match=r"bubblewrap is not installed.*apt-get install") as caught:
        await choose("bwrap", NO_CLI, tmp_path, search_path="/nowhere")
    assert caught.value.code == "unavailable"


@pytest.fixture
def broken(tmp_path: Path) -> str:
    program = tmp_path / "bin/bwrap"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n"
    )
    program.chmod(0o755)
    return str(program.parent)


async def test_bwrap_that_does_not_work_is_not_taken(tmp_path: Path, broken: str) -> None:
    chosen = await choose("auto", NO_CLI, tmp_path, search_path=broken)
    assert chosen.kind == "none"
    assert "No permissions to create new namespace" in chosen.reason
    with pytest.raises(AppError, match="No permissions to create new namespace"):
        await choose("bwrap", NO_CLI, tmp_path, search_path=broken)


@needs_bwrap
async def test_cli_that_does_not_run_in_the_sandbox_speaks_against_it(tmp_path: Path) -> None:
    chosen = await choose("auto", Path("/usr/bin/false"), tmp_path)
    assert chosen.kind == "none"
    assert "the CLI ended with 1" in chosen.reason


def test_limits_are_told_to_people() -> None:
    both = cgroup.Groups((), bounds_memory=True, bounds_processes=True)
    assert Isolation("none", "", both).limits == "2 GiB of memory each, 512 processes each"
    assert Isolation("bwrap", "", server_uid=0).limits == "512 processes for each user"
    assert Isolation("none", "", server_uid=0).limits == "none"
    assert Isolation("bwrap", "", server_uid=1000).limits == "none"


# A server that is not root

UNPRIVILEGED = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from sessions.process import run
from sessions.sandbox import Box, choose, wrap

async def main():
    folder = Path(sys.argv[2])
    chosen = await choose("auto", Path("/usr/bin/true"), folder)
    for name in ("home", "tmp"):
        (folder / name).mkdir(mode=0o700)
    env = {"PATH": "/usr/bin:/bin"}
    box = Box(name="a", username="ann", uid=None, home=folder / "home", cwd=folder / "home",
              tmp=folder / "tmp", env=env)
    script = "id -u; id -un; cat /proc/1/environ; unshare -U true || grep CapEff /proc/self/status"
    print(chosen.kind)
    command = wrap(chosen, box, ["sh", "-c", script], cli=Path("/usr/bin/true"))
    print(await run(command, seconds=9))

asyncio.run(main())
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 65534, 65534)
        Path(folder).chmod(0o755)
        yield Path(folder)


@needs_bwrap
@needs_root
async def test_server_that_is_not_root_has_a_sandbox_too(open_folder: Path) -> None:
    python, code = "/usr/bin/python3", open_folder / "code"
    if not Path(python).exists():
        pytest.skip("the system has no Python of its own here")
    # The repository may lie where only root can look.
    shutil.copytree(ROOT / "sessions", code / "sessions")
    shutil.copy(ROOT / "errors.py", code)
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    ended = await asyncio.to_thread(
        subprocess.run,
        [*as_nobody, python, "-B", "-c", UNPRIVILEGED, str(code), str(open_folder)],
        capture_output=True,
        text=True,
    )
    assert ended.stdout.startswith("bwrap\nFinished(code=0, stdout='65534\\nann\\nCapEff"), ended
    assert "0000000000000000" in ended.stdout
