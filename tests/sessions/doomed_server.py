"""A server for test_process to kill: KIND GROUPS FOLDER strays|young."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from sessions import cgroup
from sessions.process import Process
from sessions.sandbox import Box, wrap
from tests.sessions.boxes import NO_CLI, isolation, make_box


async def serve(kind: str, groups: str, box: Box, script: str) -> None:
    place = isolation(kind, cgroup.Groups.find(groups) if groups else None)
    up = asyncio.Event()
    command = wrap(place, box, ["/bin/sh", "-c", script], cli=NO_CLI)
    process = await Process.start(command, on_lines=lambda _: up.set(), on_exit=lambda _: None)
    await up.wait()
    pids = process.pids() | cgroup.tree(process.pid)
    program = process._program()
    sys.stdout.write(f"{program} {' '.join(map(str, pids))}\n")
    sys.stdout.flush()
    await asyncio.sleep(1000)


def die_young(kind: str, groups: str, folder: Path) -> None:
    """Many servers, each killed a little later after its start."""
    box = make_box(folder, "young")
    for step in range(40):
        script = "trap '' TERM HUP PIPE; while :; do sleep 1; done"
        if (child := os.fork()) == 0:
            asyncio.run(serve(kind, groups, box, script))
        time.sleep(0.001 * step)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    kind, groups, folder, what = sys.argv[1:]
    if what == "young":
        die_young(kind, groups, Path(folder))
    else:
        box = make_box(Path(folder), "doomed")
        asyncio.run(serve(kind, groups, box, os.environ["STRAYS"] + "cat"))
