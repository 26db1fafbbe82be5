"""One answer for all who ask the same at the same time."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Shared(Generic[K, T]):
    """At most one read of a key runs, and those who ask meanwhile share the next one.

    It begins after each of them has asked, so nobody is told less than was true then.
    A read costs some hops between threads, which cost more the busier the loop is.
    """

    def __init__(self, read: Callable[[K], Awaitable[T]]) -> None:
        self._read = read
        self._running: dict[K, asyncio.Task[T]] = {}
        self._next: dict[K, asyncio.Task[T]] = {}

    async def ask(self, key: K) -> T:
        if key not in self._next:
            self._next[key] = asyncio.create_task(self._run(key, self._running.get(key)))
        return await asyncio.shield(self._next[key])

    async def _run(self, key: K, before: asyncio.Task[T] | None) -> T:
        if before:
            await asyncio.wait([before])
        self._running[key] = self._next.pop(key)
        try:
            return await self._read(key)
        finally:
            del self._running[key]
