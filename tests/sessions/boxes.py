"""Boxes to try things in: real bwrap, real processes, real control groups."""

import asyncio
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sessions import cgroup
from sessions.process import Process
from sessions.sandbox import Box, Isolation, wrap

UID = 23001
AS_ROOT = os.geteuid() == 0
NO_CLI = Path("/usr/bin/true")  # stands where the CLI would
BWRAP = shutil.which("bwrap")

needs_bwrap = pytest.mark.skipif(BWRAP is None, reason="bubblewrap is not installed")
needs_root = pytest.mark.skipif(not AS_ROOT, reason="only a server that is root changes the uid")


def isolation(kind: str, groups: cgroup.Groups | None = None) -> Isolation:
    if kind == "none":
        return Isolation("none", "", groups)
    if BWRAP is None:
        pytest.skip("bubblewrap is not installed")
    return Isolation("bwrap", "", groups, BWRAP)


def make_box(folder: Path, name: str, uid: int = UID, env: Mapping[str, str] | None = None) -> Box:
    home, tmp = folder / name / "home", folder / name / "tmp"
    for path in (home, tmp):
        path.mkdir(parents=True, mode=0o700)
        if AS_ROOT:
            os.chown(path, uid, uid)
    return Box(
        name=name,
        username=name,
        uid=uid if AS_ROOT else None,
        home=home,
        cwd=home,
        tmp=tmp,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **(env or {})},
    )


@dataclass
class Heard:
    """What a program said until now, and its end."""

    process: Process
    lines: list[bytes]
    codes: list[int]

    async def line(self, text: str) -> None:
        await eventually(lambda: text.encode() in self.lines)

    def text(self) -> str:
        return b"\n".join(self.lines).decode()


@dataclass(frozen=True)
class Place:
    """Where a test's programs run."""

    folder: Path
    isolation: Isolation

    def box(self, name: str = "ann", **env: str) -> Box:
        return make_box(self.folder, name, env=env)

    def with_uid(self, name: str, uid: int) -> Box:
        return make_box(self.folder, name, uid)

    def plain(self) -> "Place":
        return replace(self, isolation=isolation("none"))

    async def start(self, script: str, box: Box | None = None) -> Heard:
        return await self.start_program(["/bin/sh", "-c", script], box)

    async def start_program(self, program: Sequence[str], box: Box | None = None) -> Heard:
        lines: list[bytes] = []
        codes: list[int] = []
        command = wrap(self.isolation, box or self.box(), program, cli=NO_CLI)
        process = await Process.start(command, on_lines=lines.extend, on_exit=codes.append)
        return Heard(process, lines, codes)

    @asynccontextmanager
    async def running(self, script: str, box: Box | None = None) -> AsyncIterator[Heard]:
        heard = await self.start(script, box)
        try:
            yield heard
        finally:
            heard.process.kill()
            await heard.process.wait()

    async def says(self, script: str, box: Box | None = None) -> str:
        """All that a script prints, errors too."""
        heard = await self.start(f"exec 2>&1; {script}", box)
        heard.process.close_stdin()
        await heard.process.wait()
        return heard.text()


async def eventually(condition: Callable[[], object], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(0.01)


def alive(pids: set[int]) -> set[int]:
    """Those that still run; a zombie only waits to be counted."""
    states = {pid: cgroup.stat_fields(pid) for pid in pids}
    return {pid for pid, fields in states.items() if fields and fields[0] not in "ZX"}


@asynccontextmanager
async def own_groups() -> AsyncIterator[cgroup.Groups]:
    groups = cgroup.Groups.find(f"claude-orchestrator-test-{secrets.token_hex(4)}")
    if groups is None:
        pytest.skip("no control group is writable here")
    try:
        yield groups
    finally:
        await groups.sweep()
