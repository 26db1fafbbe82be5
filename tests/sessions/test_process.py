"""Programs started, heard, held up and ended: in every kind of box that there is."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from errors import AppError
from sessions import cgroup, process
from sessions.command import Command, gated
from sessions.pipes import Lines
from sessions.process import Process, run
from sessions.sandbox import Isolation, wrap
from tests.sessions.boxes import (
    NO_CLI,
    Place,
    alive,
    eventually,
    isolation,
    make_box,
    needs_bwrap,
    own_groups,
)

STRAYS = (
    "setsid sleep 1000 & (setsid sh -c 'sleep 1001 & sleep 1002' &) ; (sleep 1003 &) ; "
    "sleep 0.2; echo up; "
)
SERVER = Path(__file__).with_name("doomed_server.py")


@pytest.fixture(params=["bwrap+groups", "bwrap", "none+groups", "none"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    kind, _, grouped = request.param.partition("+")
    if not grouped:
        yield Place(tmp_path, isolation(kind))
        return
    async with own_groups() as groups:
        yield Place(tmp_path, isolation(kind, groups))


@pytest.fixture
def here(tmp_path: Path) -> Place:
    """For what does not depend on the kind of box."""
    return Place(tmp_path, isolation("none"))


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STDIN_SECONDS", 0.2)
    monkeypatch.setattr(process, "TERM_SECONDS", 0.3)


# What it says


@pytest.mark.parametrize("size", [70_000, 5_000_000])
async def test_long_line_arrives_whole(place: Place, size: int) -> None:
    heard = await place.start(f"head -c {size} /dev/zero | tr '\\0' a; echo; echo next")
    assert await heard.process.wait() == 0
    assert heard.lines == [b"a" * size, b"next"]


async def test_last_line_needs_no_newline(place: Place) -> None:
    heard = await place.start("echo one; echo; printf two")
    await heard.process.wait()
    assert heard.lines == [b"one", b"", b"two"]


async def test_every_line_comes_before_the_exit(here: Place) -> None:
    order: list[str] = []
    command = wrap(here.isolation, here.box(), ["seq", "100000"], cli=NO_CLI)
    started = await Process.start(
        command,
        on_lines=lambda lines: order.append(lines[-1].decode()),
        on_exit=lambda code: order.append(f"exit {code}"),
    )
    await started.wait()
    assert order[-2:] == ["100000", "exit 0"]


async def test_line_above_the_limit_ends_it_with_a_reason(place: Place) -> None:
    heard = await place.start("head -c 68000000 /dev/zero | tr '\\0' a; sleep 1000")
    assert await heard.process.wait() == 137
    assert heard.process.fault == "it wrote a line of more than 64 MiB"
    assert heard.lines == []


@pytest.mark.parametrize(
    ("chunks", "lines", "rest"),
    [
        ([b"a\nb\n"], [b"a", b"b"], []),
        ([b"a", b"b", b"c\nd"], [b"abc"], [b"d"]),
        ([b"\n\n"], [b"", b""], []),
        ([b"a\n", b"", b"b"], [b"a"], [b"b"]),
        ([b"1234567890\n"], [b"1234567890"], []),
    ],
)
def test_chunks_are_cut_into_lines(
    chunks: list[bytes], lines: list[bytes], rest: list[bytes]
) -> None:
    cutter = Lines(limit=10)
    assert [line for chunk in chunks for line in cutter.feed(chunk)] == lines
    assert cutter.rest() == rest
    assert not cutter.too_long


def test_long_line_is_noticed_before_its_end() -> None:
    cutter = Lines(limit=10)
    assert cutter.feed(b"good\n123456") == [b"good"]
    assert not cutter.too_long
    assert cutter.feed(b"78901\nmore\n") == []
    assert cutter.too_long


async def test_the_last_64_kib_of_stderr_are_kept(place: Place) -> None:
    heard = await place.start("head -c 200000 /dev/zero | tr '\\0' e >&2; echo the end >&2")
    await heard.process.wait()
    tail = heard.process.stderr_tail
    assert len(tail) == 64 * 1024
    assert tail.endswith("ethe end\n")


async def test_what_is_written_comes_back(place: Place) -> None:
    heard = await place.start("exec cat")
    for number in range(1000):
        heard.process.write(b"%d\n" % number)
    heard.process.close_stdin()
    assert await heard.process.wait() == 0
    assert heard.lines == [b"%d" % number for number in range(1000)]


async def test_drain_waits_until_the_program_takes_it(here: Place) -> None:
    async with here.running("read -r go; cat >/dev/null; echo taken") as heard:
        heard.process.write(b"x" * 400_000)
        waiting = asyncio.create_task(heard.process.drain())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        heard.process.write(b"\n")
        await waiting
        heard.process.close_stdin()
        await heard.line("taken")


async def test_writing_to_a_program_that_is_gone_does_no_harm(here: Place) -> None:
    heard = await here.start("exec <&-; echo closed; sleep 1000")
    await heard.line("closed")
    heard.process.write(b"x" * 1_000_000)
    await heard.process.drain()
    heard.process.kill()
    await heard.process.wait()
    heard.process.write(b"more")
    await heard.process.drain()


async def test_paused_reading_holds_the_program_up(here: Place) -> None:
    async with here.running("echo first; read -r go; seq 400000; echo done >&2; cat") as heard:
        await heard.line("first")
        heard.process.pause()
        heard.process.write(b"\n")
        await asyncio.sleep(0.3)
        assert heard.lines == [b"first"]
        assert heard.process.stderr_tail == ""
        heard.process.resume()
        await heard.line("400000")
        assert len(heard.lines) == 400_001


async def test_what_a_paused_program_said_before_its_end_is_not_lost(here: Place) -> None:
    heard = await here.start("read -r go; echo last words")
    heard.process.pause()
    heard.process.write(b"\n")
    await heard.process.wait()
    assert heard.lines == [b"last words"]


# How it starts


async def test_missing_sandbox_is_one_sentence(tmp_path: Path) -> None:
    missing = Isolation("bwrap", "", bwrap="/nowhere/bwrap")
    command = wrap(missing, make_box(tmp_path, "ann"), ["true"], cli=NO_CLI)
    with pytest.raises(AppError, match=r"could not be started: .*/nowhere/bwrap") as caught:
        await run(command, seconds=5)
    assert caught.value.code == "unavailable"


async def test_missing_folder_is_one_sentence(place: Place) -> None:
    box = place.box()
    box.cwd.rmdir() if place.isolation.kind == "none" else (box.cwd / "x").mkdir(0o000)
    cwd = box.cwd if place.isolation.kind == "none" else box.cwd / "y"
    command = Command(gated(cwd, ("true",)))
    with pytest.raises(AppError, match=r"could not be started: .*cd: can't cd to"):
        await run(command, seconds=5)


async def test_missing_program_ends_with_127(place: Place) -> None:
    heard = await place.start_program(["/nowhere/claude"])
    assert await heard.process.wait() == 127
    assert "/nowhere/claude: not found" in heard.process.stderr_tail


async def test_start_that_is_cancelled_leaves_nothing(place: Place) -> None:
    before = set(cgroup.children(os.getpid()))
    box = place.box()
    for tick in range(6):
        command = wrap(place.isolation, box, ["sleep", "1000"], cli=NO_CLI)
        starting = asyncio.create_task(
            Process.start(command, on_lines=lambda _: None, on_exit=lambda _: None)
        )
        await asyncio.sleep(0.001 * tick)
        starting.cancel()
        await asyncio.wait([starting])
        if not starting.cancelled():
            starting.result().kill()
    await eventually(lambda: set(cgroup.children(os.getpid())) <= before)


async def test_run_hands_back_what_was_said(place: Place) -> None:
    script = "read -r word; echo said $word; echo also; echo wrong >&2; exit 3"
    command = wrap(place.isolation, place.box(), ["sh", "-c", script], cli=NO_CLI)
    assert await run(command, seconds=5, text="hello\n") == (3, "said hello\nalso", "wrong\n")


async def test_run_kills_what_takes_too_long(place: Place) -> None:
    command = wrap(place.isolation, place.box(), ["sleep", "1000"], cli=NO_CLI)
    began = time.monotonic()
    with pytest.raises(AppError, match=r"did not end within 0\.2 s"):
        await run(command, seconds=0.2)
    assert time.monotonic() - began < 2


# How it ends


async def test_closed_stdin_is_the_first_rung(place: Place) -> None:
    heard = await place.start("cat; echo bye; exit 5")
    assert await heard.process.end() == 5
    assert heard.lines == [b"bye"]
    assert heard.codes == [5]


@pytest.mark.usefixtures("hurried")
async def test_sigterm_is_the_second_and_goes_to_the_program_itself(place: Place) -> None:
    heard = await place.start(
        "trap 'echo gently; exit 7' TERM; echo up; while :; do sleep 0.05; done"
    )
    await heard.line("up")
    assert await heard.process.end() == 7
    assert heard.lines == [b"up", b"gently"]


@pytest.mark.usefixtures("hurried")
async def test_program_that_does_not_catch_sigterm_ends_with_143(place: Place) -> None:
    heard = await place.start("exec sleep 1000")
    assert await heard.process.end() == 143


@pytest.mark.usefixtures("hurried")
async def test_sigkill_is_the_last(place: Place) -> None:
    heard = await place.start("trap '' TERM; echo up; while :; do sleep 0.05; done")
    await heard.line("up")
    assert await heard.process.end() == 137


async def test_end_may_be_called_twice_at_once_and_afterwards(place: Place) -> None:
    heard = await place.start("cat; exit 4")
    assert set(await asyncio.gather(heard.process.end(), heard.process.end())) == {4}
    assert await heard.process.end() == 4
    heard.process.kill()
    heard.process.terminate()
    assert heard.codes == [4]


async def test_end_goes_on_when_one_who_waits_gives_up(place: Place) -> None:
    heard = await place.start("cat; sleep 0.2; exit 4")
    waiting = asyncio.create_task(heard.process.end())
    await asyncio.sleep(0.05)
    waiting.cancel()
    assert await heard.process.wait() == 4


async def test_end_of_a_program_whose_reader_paused(place: Place) -> None:
    heard = await place.start("read -r go; seq 400000; cat")
    heard.process.pause()
    heard.process.write(b"\n")
    assert await heard.process.end() == 0
    assert heard.lines[-1] == b"400000"


@pytest.mark.parametrize("way", ["kill", "end", "exit"])
async def test_nothing_survives(place: Place, way: str) -> None:
    heard = await place.start(STRAYS + ("cat" if way != "exit" else "read -r go"))
    await heard.line("up")
    pids = heard.process.pids()
    assert len(alive(pids)) >= 6
    began = time.monotonic()
    if way == "end":
        await heard.process.end()
    elif way == "kill":
        heard.process.kill()
    else:
        heard.process.write(b"\n")
    await heard.process.wait()
    assert alive(pids) == set()
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("place", ["bwrap+groups", "bwrap", "none+groups"], indirect=True)
async def test_fork_bomb_dies_whole(place: Place) -> None:
    heard = await place.start("perl -e 'while (1) { fork; select(undef, undef, undef, 0.02) }'")
    await eventually(lambda: len(heard.process.pids()) > 400)
    pids = heard.process.pids()
    assert len(pids) <= 512 + 3  # bwrap's own, where the limit is the user's
    heard.process.kill()
    await heard.process.wait()
    assert alive(pids) == set()


# When the server dies


def doomed(place: Place, *words: str) -> subprocess.Popen[str]:
    """A server that starts STRAYS in the same kind of place and can be killed."""
    groups = place.isolation.groups
    name = groups.parents[0].name if groups else ""
    argv = [sys.executable, str(SERVER), place.isolation.kind, name, str(place.folder), *words]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env={"STRAYS": STRAYS})


async def test_nothing_survives_kill_9_of_the_server(place: Place) -> None:
    with doomed(place, "strays") as server:
        assert server.stdout
        words = await asyncio.to_thread(server.stdout.readline)
        program, *others = map(int, words.split())
        pids = {program, *others}
        assert alive(pids) == pids
        server.kill()
    if place.isolation.kind == "none":
        await eventually(lambda: not alive({program}), 2)
        if place.isolation.groups:
            assert await place.isolation.groups.sweep() == 1
        else:
            cgroup.send(alive(pids), signal.SIGKILL)  # here only the program itself dies
    await eventually(lambda: not alive(pids), 2)


@needs_bwrap
async def test_nothing_survives_when_the_server_dies_while_the_box_is_built(
    tmp_path: Path,
) -> None:
    async with own_groups() as groups:
        place = Place(tmp_path, isolation("bwrap", groups))
        with doomed(place, "young") as server:
            assert await asyncio.to_thread(server.wait) == 0
        await eventually(lambda: not any(alive(g.pids()) for g in groups.leftovers()), 2)


# What it costs


async def test_no_descriptor_no_thread_no_zombie_is_left(place: Place) -> None:
    async def once(number: int) -> None:
        heard = await place.start("echo hello", boxes[number])
        await heard.process.wait()
        assert heard.lines == [b"hello"]

    boxes = [place.box(f"box{number}") for number in range(51)]
    await once(50)
    descriptors, threads = sorted(Path("/proc/self/fd").iterdir()), threading.active_count()
    for start in range(0, 50, 5):
        await asyncio.gather(*map(once, range(start, start + 5)))
    assert sorted(Path("/proc/self/fd").iterdir()) == descriptors
    assert threading.active_count() == threads
    assert [pid for pid in cgroup.children(os.getpid()) if not alive({pid})] == []
    if place.isolation.groups:
        await eventually(lambda: not place.isolation.groups.leftovers())  # type: ignore[union-attr]


async def test_memory_of_the_whole_tree_is_known(place: Place) -> None:
    holder = "x=$(head -c 40000000 /dev/zero | tr '\\0' a)"
    script = f"({holder}; echo up; sleep 1000; :) & {holder}; echo up; cat; :"
    async with place.running(script) as heard:
        await eventually(lambda: heard.lines == [b"up", b"up"])
        assert 80_000_000 < heard.process.memory() < 200_000_000


async def test_without_pidfd_a_thread_waits(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    heard = await here.start("echo hello; exit 3")
    assert await heard.process.wait() == 3
    assert heard.lines == [b"hello"]
