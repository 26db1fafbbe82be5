"""Numbered, bounded streams that readers follow.

A topic never waits for a reader. One that falls behind by more than BACKLOG bytes
is dropped, and comes back with the number of the last event that it saw.
"""

import asyncio
from collections.abc import Callable

BACKLOG = 4 * 1024 * 1024
PIECE = 512 * 1024


class Reader:
    """One follower of a topic; with a turn, only of that turn's events."""

    def __init__(self, topic: "Topic", turn: int | None, on_drop: Callable[[], None]) -> None:
        self._topic = topic
        self._turn = turn
        self._on_drop = on_drop
        self._lines: list[bytes] = []
        self._size = 0
        self._news = asyncio.Event()
        self._ended = False

    @property
    def turn(self) -> int | None:
        return self._turn

    def put(self, turn: int, line: bytes) -> None:
        if self._turn is not None and turn != self._turn:
            return
        if self._size > BACKLOG:
            self._drop()
            return
        self._lines.append(line)
        self._size += len(line)
        self._news.set()

    async def batch(self) -> bytes:
        """What came since the last call, whole lines; nothing once the stream has ended."""
        while not self._lines and not self._ended:
            self._news.clear()
            await self._news.wait()
        return self._take()

    def end(self) -> None:
        """Nothing more will come; what has come can still be read."""
        self._ended = True
        self._news.set()

    def close(self) -> None:
        self._topic.forget(self)
        self.end()

    def _take(self) -> bytes:
        lines, self._lines = self._lines, []
        size, taken = self._size, 0
        if size > PIECE:
            taken = _count_within(lines, PIECE)
            self._lines = lines[taken:]
            lines = lines[:taken]
        piece = b"".join(lines)
        self._size = size - len(piece)
        return piece

    def _drop(self) -> None:
        self._lines, self._size = [], 0
        self.close()
        self._on_drop()


class Topic:
    def __init__(self) -> None:
        self._readers: list[Reader] = []
        self._held: list[tuple[int, bytes]] | None = None
        self._ended = False

    @property
    def followed(self) -> bool:
        return bool(self._readers)

    def follow(self, turn: int | None, on_drop: Callable[[], None]) -> Reader:
        reader = Reader(self, turn, on_drop)
        if self._ended:
            reader.end()
        else:
            # A new list, since a publish may be going through the old one.
            self._readers = [*self._readers, reader]
        return reader

    def publish(self, turn: int, line: bytes) -> None:
        if self._held is not None:
            self._held.append((turn, line))
            return
        for reader in self._readers:
            reader.put(turn, line)

    def hold(self) -> None:
        """What is published from now on is told at the release."""
        self._held = []

    def release(self, *first: tuple[int, bytes]) -> None:
        held, self._held = self._held or [], None
        for turn, line in (*first, *held):
            self.publish(turn, line)

    def forget(self, reader: Reader) -> None:
        self._readers = [other for other in self._readers if other is not reader]

    def end_turn(self, turn: int) -> None:
        """Readers of that turn alone have had everything."""
        for reader in self._readers:
            if reader.turn == turn:
                reader.close()

    def end(self) -> None:
        """For good: whoever comes later finds it ended."""
        self._ended = True
        for reader in self._readers:
            reader.close()


def _count_within(lines: list[bytes], size: int) -> int:
    count = total = 0
    for line in lines:
        if count and total + len(line) > size:
            break
        total += len(line)
        count += 1
    return count
