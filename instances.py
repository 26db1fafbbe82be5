"""Who is alive is a row: each running server beats, and buries those that have stopped."""

import os
import socket
import uuid
from collections.abc import Callable
from pathlib import Path

from models import Instance

from db import Database

BEAT_SECONDS = 10
DEAD_SECONDS = 30


class Instances:
    def __init__(self, db: Database, clock: Callable[[], float]) -> None:
        self._db = db
        # The lock on DATA_DIR has made sure that no other server uses this file.
        self._alone = db.dialect == "sqlite"
        self._clock = clock
        self.beaten_at = 0.0
        self.id = str(uuid.uuid4())

    async def join(self) -> list[str]:
        """Register this server; the ids of those that left without a word come back."""
        await self._db.run(self._register)
        self.beaten_at = self._clock()
        return await self._db.read(self._dead)

    async def step(self, now: float) -> list[str]:
        """Beat when it is time. An id of the dead may be this server's own: others buried it."""
        if 0 <= now - self.beaten_at < BEAT_SECONDS:
            return []
        alive = await self._db.run(self._beat)
        self.beaten_at = now
        return await self._db.read(self._dead) if alive else [self.id]

    @property
    def overdue(self) -> bool:
        """The others, if there can be any, must take this server for dead by now."""
        silent = self._clock() - self.beaten_at > DEAD_SECONDS - BEAT_SECONDS / 2
        return silent and not self._alone

    async def leave(self) -> None:
        await self._db.run(lambda: Instance.delete().where(Instance.id == self.id).execute())

    def _register(self) -> None:
        now = self._now()
        Instance.create(
            id=self.id,
            host=_here(),
            process=_process(os.getpid()),
            started_at=now,
            heartbeat_at=now,
        )

    def _beat(self) -> bool:
        mine = Instance.id == self.id
        return bool(Instance.update(heartbeat_at=self._now()).where(mine).execute())

    def _dead(self) -> list[str]:
        others = Instance.select().where(Instance.id != self.id)
        return [row.id for row in others if self._is_dead(row)]

    def _is_dead(self, row: Instance) -> bool:
        if self._alone or row.heartbeat_at < self._now() - DEAD_SECONDS * 1000:
            return True
        # Where its processes can be seen there is no need to wait for the silence.
        if row.host != _here():
            return False
        return bool(row.process != _process(int(row.process.partition(" ")[0])))

    def _now(self) -> int:
        return int(self._clock() * 1000)


def _here() -> str:
    """This machine since its start, and the container: a host's name alone may be shared."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').readlink()}"


def _process(pid: int) -> str:
    """The process and when it began, since the system uses numbers again."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return f"{pid} gone"
    fields = stat.rpartition(")")[2].split()
    return f"{pid} gone" if fields[0] in "ZX" else f"{pid} {fields[19]}"
