"""What the server holds in memory: idle, and for each resident session."""

import re
from pathlib import Path
from statistics import median

from bench.report import Figure, at_most
from bench.stage import Stage
from bench.wire import Wire

MIB = 1024 * 1024
SESSIONS = 16


async def figures(stage: Stage) -> list[Figure]:
    idle, each = zip(*[await _one(stage, number) for number in range(3)], strict=True)
    return [
        at_most("idle server, resident memory", median(idle) / MIB, 65, " MiB"),
        at_most(f"each of {SESSIONS} resident sessions, of our own", median(each) / MIB, 1, " MiB"),
    ]


async def _one(stage: Stage, number: int) -> tuple[int, float]:
    async with stage.server(f"memory-{number}", MAX_LIVE_SESSIONS=str(SESSIONS)) as server:
        with Wire(server) as wire:
            wire.ask("GET", "/sessions")
            idle = resident(server.pid)
            for _ in range(SESSIONS):
                wire.turn(wire.create(), "hello")
            return idle, (resident(server.pid) - idle) / SESSIONS


def resident(pid: int) -> int:
    return _bytes(pid, "VmRSS")


def peak(pid: int) -> int:
    """The most that it ever held since it started."""
    return _bytes(pid, "VmHWM")


def _bytes(pid: int, name: str) -> int:
    found = re.search(rf"{name}:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024
