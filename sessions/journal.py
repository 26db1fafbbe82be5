"""One session's log: numbered events that are rows, and the text that is not one yet.

Live text goes to the readers at once and is kept, merged, in one open segment; when its
block ends (or it grows past SEGMENT) the segment becomes a row that carries the number of
its last piece. A reader that comes back gets the rows after its number, the open segment,
and then what is live; text says its offset, so that what was had before does no harm.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

from db import Database
from errors import AppError
from sessions import store
from sessions.events import instant, line, milliseconds, text_line
from sessions.topics import Reader, Topic

SEGMENT = 256 * 1024
LOW = store.RANGE // 2
RETRY_SECONDS = 1.0
FLUSH_SECONDS = 2.0
MOST_PENDING = 32 * 1024 * 1024

log = logging.getLogger(__name__)


class Segment:
    """A run of text, from `offset` on, that has no row yet."""

    __slots__ = ("block", "kind", "length", "offset", "pieces", "turn")

    def __init__(self, turn: int, kind: bytes, block: int, offset: int) -> None:
        self.turn = turn
        self.kind = kind
        self.block = block
        self.offset = offset
        self.length = 0
        self.pieces: list[str] = []


class Replay:
    """What one reader gets. Whoever drops it, read or not, is taken off the topic."""

    def __init__(self, reader: Reader, stored: AsyncIterator[bytes], rest: bytes) -> None:
        self._reader = reader
        self._pieces = _pieces(reader, stored, rest)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._pieces)

    def __del__(self) -> None:
        self._reader.close()


async def _pieces(
    reader: Reader, stored: AsyncIterator[bytes], rest: bytes
) -> AsyncIterator[bytes]:
    try:
        async for page in stored:
            yield page
        if rest:
            yield rest
        while batch := await reader.batch():
            yield batch
    finally:
        reader.close()


class Journal:
    def __init__(self, db: Database, session_id: str, last_seq: int, reserved: int) -> None:
        self._db = db
        self._session_id = session_id
        self._reserved = reserved
        self._segment: Segment | None = None
        self._ends: tuple[int, int, int] = (0, 0, 0)  # turn, block, how far its text has come
        self._pending: list[store.EventRow] = []
        self._pending_size = 0
        self._writing: asyncio.Task[None] | None = None
        self._held_at: int | None = None  # nothing from this number on is told yet
        self._at_ms = 0
        self._at = ""
        self._at_bytes = b""
        self.topic = Topic()
        self.seq = last_seq

    @property
    def overfull(self) -> bool:
        """The database has not taken anything for so long that memory would not stay flat."""
        return self._pending_size > MOST_PENDING

    def event(self, turn: int, kind: str, **fields: Any) -> None:
        """Publish, and have it stored soon."""
        row = self._row(turn, kind, fields)
        self._keep(row)
        self.topic.publish(*_told(row))

    @asynccontextmanager
    async def stored_first(
        self, turn: int, kind: str, fields: dict[str, Any], patience: float | None
    ) -> AsyncIterator[store.EventRow]:
        """An event that the caller stores before anybody hears it; what comes meanwhile waits."""
        row = self._row(turn, kind, fields)
        self._held_at = row[1]
        self.topic.hold()
        told: list[tuple[int, bytes]] = []
        try:
            async with asyncio.timeout(patience):
                await self._settled_before(row[1])
            yield row
            told.append(_told(row))
        finally:
            self._held_at = None
            self.topic.release(*told)

    def _row(self, turn: int, kind: str, fields: dict[str, Any]) -> store.EventRow:
        self.seal()
        self.tick()
        self.seq += 1
        text = line(self.seq, turn, kind, self._at, fields).decode()
        return (self._session_id, self.seq, turn, kind, self._at_ms, text)

    def text(self, turn: int, kind: bytes, block: int, text: str) -> None:
        segment = self._segment
        if segment is None or segment.block != block or segment.length > SEGMENT:
            segment = self._next_segment(turn, kind, block)
        self.seq += 1
        offset = segment.offset + segment.length
        segment.pieces.append(text)
        segment.length += len(text)
        self.topic.publish(
            turn, text_line(self.seq, turn, kind, self._at_bytes, block, offset, text)
        )

    def seal(self) -> None:
        """The open segment becomes a row."""
        segment, self._segment = self._segment, None
        if segment and segment.length:
            self._ends = (segment.turn, segment.block, segment.offset + segment.length)
            kind = segment.kind.decode()
            text = self._segment_line(segment).decode()
            row = (self._session_id, self.seq, segment.turn, kind, self._at_ms, text)
            self._keep(row)

    def tick(self) -> None:
        """Look at the clock: once for each batch of lines, which is often enough."""
        now = milliseconds()
        if now != self._at_ms:
            self._at_ms, self._at = now, instant(now)
            self._at_bytes = self._at.encode()

    async def reserve(self) -> None:
        """More numbers; until they are safe none of them may be used."""
        while True:
            try:
                self._reserved = await self._db.run(store.reserve, self._session_id)
                return
            except AppError:
                await asyncio.sleep(RETRY_SECONDS)

    @property
    def starved(self) -> bool:
        return self._reserved - self.seq <= LOW

    @property
    def unsettled(self) -> bool:
        return bool(self._pending)

    async def settled(self) -> None:
        """Everything that was said until now is a row."""
        self.seal()
        await self._settled_before(self.seq + 1)

    async def _settled_before(self, seq: int) -> None:
        while self._pending and self._pending[0][1] < seq:
            self._write_soon()
            assert self._writing
            await asyncio.shield(self._writing)

    def read(
        self,
        after: int,
        *,
        turn: int | None = None,
        follow: bool,
        on_drop: Callable[[], None] = lambda: None,
    ) -> AsyncIterator[bytes]:
        """What came after that number; all that is known now is settled before this returns."""
        reader = self.topic.follow(turn, on_drop)
        if not follow:
            reader.close()
        told = self.seq if self._held_at is None else self._held_at - 1
        pending = [row for row in self._pending if row[1] <= told]
        stored_upto = min([told, *(row[1] - 1 for row in pending)])
        rest = [row[5].encode() for row in pending if row[1] > after and turn in (None, row[2])]
        if self._held_at is None:
            rest.append(self._open_text(turn))
        return Replay(reader, self._stored(after, stored_upto, turn), b"".join(rest))

    async def _stored(self, after: int, upto: int, turn: int | None) -> AsyncIterator[bytes]:
        while after < upto:
            rows = await self._db.read(store.events, self._session_id, after, upto, turn)
            if not rows:
                return
            after = rows[-1][0]
            yield "".join(text for _, text in rows).encode()

    def _open_text(self, turn: int | None) -> bytes:
        segment = self._segment
        if not segment or not segment.length or turn not in (None, segment.turn):
            return b""
        return self._segment_line(segment)

    def _segment_line(self, segment: Segment) -> bytes:
        text = "".join(segment.pieces)
        at = self._at_bytes or instant(milliseconds()).encode()
        return text_line(
            self.seq, segment.turn, segment.kind, at, segment.block, segment.offset, text
        )

    def _next_segment(self, turn: int, kind: bytes, block: int) -> Segment:
        self.seal()
        last_turn, last_block, length = self._ends
        offset = length if (last_turn, last_block) == (turn, block) else 0
        self._segment = Segment(turn, kind, block, offset)
        return self._segment

    def _keep(self, row: store.EventRow) -> None:
        self._pending.append(row)
        self._pending_size += len(row[5])
        self._write_soon()

    def _write_soon(self) -> None:
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        while rows := self._pending[:500]:
            try:
                await self._db.run(store.add_events, rows)
            except AppError:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except Exception:
                # No later try would fare better, and the turn that waits for it must end.
                log.exception("events can't be stored", extra={"session": self._session_id})
            del self._pending[: len(rows)]
            self._pending_size -= sum(len(row[5]) for row in rows)

    async def close(self, *, flush: bool) -> None:
        """No more events: end the readers, and give up what can't be stored soon."""
        self.topic.end()
        if flush:
            self.seal()
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self.settled()
        if self._writing:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)


def _told(row: store.EventRow) -> tuple[int, bytes]:
    return row[2], row[5].encode()
