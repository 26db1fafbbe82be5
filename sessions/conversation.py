"""One conversation: its queue, its log, its turns in order."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from errors import AppError, conflict, not_found, too_many, unavailable
from sessions import events, store
from sessions.journal import Journal
from sessions.resident import Resident, Workshop
from sessions.runner import Ended, Runner
from sessions.store import SessionRow, TurnRow
from sessions.turn import Asked, Failure

STORAGE_SECONDS = 5.0
RETRY_SECONDS = 1.0
CLOSE_SECONDS = 6.0
STOPPED = "The server was stopped while it worked on this prompt. It is not run again by itself."

log = logging.getLogger(__name__)


class Conversation:
    def __init__(self, shop: Workshop, row: SessionRow) -> None:
        self.row = row
        self.journal = Journal(shop.db, row.id, row.reserved_seq - store.RANGE, row.reserved_seq)
        self.waiting: deque[TurnRow] = deque()
        self.turn: TurnRow | None = None
        self.used_at = time.monotonic()
        self._shop = shop
        self._runner = Runner(shop, row, self.journal)
        self._worker: asyncio.Task[None] | None = None
        # Held while prompts are accepted and turns closed: one after the other.
        self._in_order = asyncio.Lock()
        self._stuck = False  # the database takes nothing
        self._resting = False
        self._closed = False

    @property
    def resident(self) -> Resident:
        return self._runner.resident

    @property
    def asks(self) -> Mapping[str, Asked]:
        return self._runner.asks

    @property
    def state(self) -> str:
        if self.turn:
            return "waiting" if self.asks else "running"
        return self.resident.state

    @property
    def idle(self) -> bool:
        """Its process may be ended: nobody would miss it."""
        return bool(self.resident.claude) and not self.turn and not self.waiting

    @property
    def forgettable(self) -> bool:
        busy = self.resident.present or self.turn or self.waiting or self._in_order.locked()
        read = self.journal.topic.followed or self.journal.unsettled
        return not (busy or read or self._closed)

    async def submit(
        self,
        prompt: str,
        turn_uuid: str,
        source: str,
        *,
        fresh: bool,
        on_drop: Callable[[], None],
    ) -> AsyncIterator[bytes]:
        """Accept a prompt; what comes back is that turn's events, to its `done`."""
        async with self._ordered_soon():
            known = await self._shop.db.read(store.turn_of_uuid, self.row.id, turn_uuid)
            if known:
                return self._again(known, prompt, on_drop)
            if len(self.waiting) >= self._shop.policy.queue:
                most = self._shop.policy.queue
                raise too_many(f"This session has {most} prompts waiting; let some finish.", 5)
            row = await self._accept(prompt, turn_uuid, source, fresh)
            last = self.journal.seq
            stream = self.journal.read(last, turn=row.number, follow=True, on_drop=on_drop)
            self.enqueue(row)
            return stream

    def enqueue(self, row: TurnRow) -> None:
        self.waiting.append(row)
        if self.turn or len(self.waiting) > 1:
            self._status(row, "queued", place=len(self.waiting), uuid=row.uuid)
        self._go_on()

    async def take_back(self, turn_uuid: str) -> None:
        """A waiting prompt that its owner no longer wants."""
        row = next((row for row in self.waiting if row.uuid == turn_uuid), None)
        if row is None:
            raise not_found("No waiting prompt has that uuid.")
        self.waiting.remove(row)
        try:
            async with self._ordered_soon():
                await self._finish(row, self._untouched("cancelled"), patience=STORAGE_SECONDS)
        except BaseException as error:
            self.waiting = deque(sorted([*self.waiting, row], key=lambda each: each.number))
            self._go_on()
            if isinstance(error, TimeoutError):
                raise unavailable("The database takes nothing now; try again soon.") from None
            raise
        self._tell_places()

    async def interrupt(self) -> bool:
        """Stop the running turn; whether there was one. The prompts behind it then run."""
        return await self._runner.interrupt()

    async def answer(self, ask_id: str, decision: str, message: str, by: str) -> None:
        await self._runner.answer(ask_id, decision, message, by)

    async def step(self, now: float) -> None:
        await self._runner.step(now)

    async def sleep(self) -> None:
        """Its process ends, and the next prompt starts another that goes on from there."""
        self._runner.tell_asleep()
        await self.resident.sleep()

    def rest(self) -> None:
        """No further turn begins; what waits stays a row."""
        self._resting = True

    async def close(self, *, gently: bool) -> None:
        """Stop for good. What waits stays a row; gently, what runs is told and recorded."""
        self._closed = True
        self.waiting.clear()
        if gently:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._wind_up()
        await self._drop()
        await self.journal.close(flush=gently)

    async def end(self) -> None:
        """Stop for good because the session goes: whoever still follows a turn is told."""
        self._closed = True
        running = self.turn
        await self._drop()
        async with self._in_order:
            with suppress(AppError, TimeoutError):
                if running:
                    await self._finish(running, self._untouched("interrupted"), patience=1)
                for row in list(self.waiting):
                    await self._finish(row, self._untouched("cancelled"), patience=1)
        self.waiting.clear()
        await self.journal.close(flush=False)

    async def _wind_up(self) -> None:
        if self._runner.preparing:
            await self._put_off()
        elif self._worker:
            await self._runner.halt(Failure("server_stopped", STOPPED))
            await asyncio.wait([self._worker])
        await self.resident.sleep()

    async def _put_off(self) -> None:
        if self._worker:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)

    async def _drop(self) -> None:
        await self._put_off()
        await self._runner.close()
        await self.resident.kill()

    # The worker: one turn after the other.

    def _go_on(self) -> None:
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while self.waiting and not (self._closed or self._resting):
            row = self.turn = self.waiting.popleft()
            try:
                self._tell_places()
                await self._close_turn(row, await self._runner.run(row))
            except Exception:
                log.exception("a turn could not be closed", extra={"session": self.row.id})
                self.journal.topic.end_turn(row.number)
            finally:
                self.turn = None
                self.used_at = time.monotonic()
            with suppress(Exception):
                await self._recycle()

    async def _close_turn(self, row: TurnRow, ended: Ended) -> None:
        async with self._in_order:
            try:
                await self._settled(row)
                if ended.changes:
                    await self._durably(lambda: self._change(ended.changes))
                await self._durably(lambda: self._finish(row, ended))
            finally:
                self._stuck = False
        self.row.last_active_at = events.milliseconds()

    async def _finish(self, row: TurnRow, ended: Ended, patience: float | None = None) -> None:
        """Exactly one `done`, which is a row before anybody hears it."""
        db, outcome = self._shop.db, ended.outcome
        async with self.journal.stored_first(row.number, "done", ended.done, patience) as event:
            await db.run(store.finish_turn, row, outcome, [event], ended.usage)
        self.journal.topic.end_turn(row.number)

    async def _settled(self, row: TurnRow) -> None:
        try:
            async with asyncio.timeout(STORAGE_SECONDS):
                await self.journal.settled()
        except TimeoutError:
            why = "The answer can't be stored: the database takes nothing. It is tried again."
            self.journal.event(row.number, "error", code="storage", message=why)
            self._stuck = True
            await self.journal.settled()

    async def _durably(self, write: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await write()
            except AppError:
                self._stuck = True
                await asyncio.sleep(RETRY_SECONDS)

    async def _change(self, fields: Mapping[str, Any]) -> None:
        await self._shop.db.run(store.change, self.row.id, **fields)

    async def _recycle(self) -> None:
        claude = self.resident.claude
        if claude and self.idle and claude.memory() > self._shop.policy.recycle_bytes:
            self._shop.metrics.evictions.labels("recycled").inc()
            await self.sleep()

    # Prompts that come and wait.

    @asynccontextmanager
    async def _ordered_soon(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(0 if self._stuck else STORAGE_SECONDS):
                await self._in_order.acquire()
        except TimeoutError:
            raise unavailable("The last answer is still being stored; try again soon.") from None
        try:
            yield
        finally:
            self._in_order.release()

    def _again(
        self, known: TurnRow, prompt: str, on_drop: Callable[[], None]
    ) -> AsyncIterator[bytes]:
        if known.prompt != prompt:
            raise conflict("That uuid belongs to another prompt of this session.")
        follow = known.state != "finished"
        if known.state == "queued" and known not in self.waiting and known != self.turn:
            # It became a row although its sender was told that it had not.
            self.enqueue(known)
        return self.journal.read(0, turn=known.number, follow=follow, on_drop=on_drop)

    async def _accept(self, prompt: str, turn_uuid: str, source: str, fresh: bool) -> TurnRow:
        if self._resting:
            raise unavailable("The server is being stopped; try again soon.")
        if self._closed:
            raise not_found("There is no such session.")
        row = TurnRow(
            session_id=self.row.id,
            number=self.row.last_turn + 1,
            uuid=turn_uuid,
            source=source,
            prompt=prompt,
            fresh=fresh,
            state="queued",
        )
        title = self.row.title or _title(prompt)
        # Its number is spent in any case: the answer of a write that succeeded may be lost.
        self.row.last_turn = row.number
        await self._shop.db.run(store.add_turn, row, title)
        self.row.title = title
        return row

    def _untouched(self, outcome: events.Outcome) -> Ended:
        return Ended(outcome, events.done(outcome, self.row.id))

    def _status(self, row: TurnRow, state: str, **fields: Any) -> None:
        self.journal.event(row.number, "status", state=state, **fields)

    def _tell_places(self) -> None:
        for place, row in enumerate(self.waiting, 1):
            self._status(row, "queued", place=place)


def _title(prompt: str) -> str:
    first = prompt.strip().splitlines()[0].strip()
    return first if len(first) <= 60 else first[:59].rstrip() + "…"
