"""What the kernel knows of a session's processes, whatever names they gave themselves."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

# Somewhere in /proc all of a box's processes name the session's own /tmp: among their mounts
# when they live in a sandbox, in their environment when they do not.
BEARS = ("mountinfo", "environ")


def living(session_id: str) -> set[int]:
    """Everything that runs in this session's box; a zombie only waits to be counted."""
    mark = f"/tmp/{session_id}".encode()
    return {pid for pid in _all() if any(mark in _read(pid, name) for name in BEARS)} - zombies()


def cli_of(session_id: str) -> int:
    """The CLI itself."""
    (pid,) = (pid for pid in living(session_id) if _is_cli(pid))
    return pid


def runs(session_id: str, program: str) -> bool:
    return count(session_id, program) > 0


def count(session_id: str, program: str) -> int:
    """How many programs of that name are at work for the session."""
    return sum(_words(pid)[0] == program for pid in living(session_id))


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    os.kill(pid, number)


def zombies() -> set[int]:
    return {pid for pid in _all() if _state(pid) in ("Z", "X", "")}


def children(parent: int) -> set[int]:
    """Zombies too."""
    return {pid for pid in _all() if _parent(pid) == parent}


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Only the kernel knows when: look again until it is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not come about within {seconds} s"
        await asyncio.sleep(0.02)


def _all() -> set[int]:
    return {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}


def _is_cli(pid: int) -> bool:
    words = _words(pid)
    return Path(words[0] if words else "").name == "claude" and "--verbose" in words


def _words(pid: int) -> list[str]:
    return _read(pid, "cmdline").decode(errors="replace").split("\0")


def _state(pid: int) -> str:
    return (_stat(pid) or [""])[0]


def _parent(pid: int) -> int:
    return int((_stat(pid) or ["", "0"])[1])


def _stat(pid: int) -> list[str]:
    return _read(pid, "stat").decode().rpartition(")")[2].split()


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
