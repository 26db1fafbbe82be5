"""Who may go next: how many start and run at once, fairly among users."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    starts: int = 2
    running: int = 6
    resident: int = 16
    queue: int = 20
    idle_seconds: float = 1800
    start_seconds: float = 10
    silence_seconds: float = 120
    tool_seconds: float = 1800
    ask_seconds: float = 600
    memory_floor: float = 0.15
    recycle_bytes: int = 600 * MIB

    @classmethod
    def for_machine(
        cls, cores: int, memory: int, *, resident: int = 0, idle_seconds: float = 1800
    ) -> "Policy":
        """Measured on 2 cores with 24 GiB, and scaled from there."""
        fits = max(2, min(16 * cores // 2, memory * 16 // (23 * GIB)))
        return cls(
            starts=max(1, cores),
            running=max(2, 3 * cores),
            resident=resident or fits,
            idle_seconds=idle_seconds,
        )


class Slots:
    """A number of places. A free one goes to the waiting user who holds the fewest."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._held: Counter[str] = Counter()
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()

    @property
    def taken(self) -> int:
        return self._held.total()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @asynccontextmanager
    async def place(self, user: str, on_wait: Callable[[int], None]) -> AsyncIterator[None]:
        await self._take(user, on_wait)
        try:
            yield
        finally:
            self.give_back(user)

    async def _take(self, user: str, on_wait: Callable[[int], None]) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((user, turn))
        self._admit()
        if turn.done():
            return
        on_wait(len(self._waiting))
        try:
            await turn
        except asyncio.CancelledError:
            self._leave(user, turn)
            raise

    def lend(self, user: str) -> None:
        """Go over the number for a moment: whoever held a place comes back from waiting."""
        self._held[user] += 1

    def give_back(self, user: str) -> None:
        self._held[user] -= 1
        self._admit()

    def _admit(self) -> None:
        while self.taken < self._capacity and self._waiting:
            entry = min(self._waiting, key=lambda entry: self._held[entry[0]])
            self._waiting.remove(entry)
            # Whoever was cancelled stands in line until its task has had time to leave.
            if not entry[1].done():
                self._held[entry[0]] += 1
                entry[1].set_result(None)

    def _leave(self, user: str, turn: asyncio.Future[None]) -> None:
        if turn.cancelled():
            self._waiting = deque(entry for entry in self._waiting if entry[1] is not turn)
        else:
            self.give_back(user)


def memory() -> tuple[int, int]:
    """Available and total, in bytes."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    figures = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return figures["MemAvailable"], figures["MemTotal"]
