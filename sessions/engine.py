"""All conversations: open, resume, admit, evict, drain."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from db import Database
from errors import AppError, conflict, not_found, unavailable
from sessions import admission, process, store
from sessions.admission import Policy, Slots
from sessions.command import Command
from sessions.conversation import Conversation
from sessions.events import instant, milliseconds
from sessions.launcher import Launcher
from sessions.metrics import Metrics
from sessions.resident import Workshop
from sessions.store import Listed, Page, SessionRow
from sessions.workspace import Owner

SWEEP_SECONDS = 600.0
TIDY_SECONDS = 30.0
DAY_MS = 86_400_000

log = logging.getLogger(__name__)


class Engine:
    def __init__(
        self,
        db: Database,
        launcher: Launcher,
        policy: Policy,
        metrics: Metrics,
        instance_id: str,
    ) -> None:
        self.policy = policy
        self.metrics = metrics
        self._db = db
        self._launcher = launcher
        self._instance_id = instance_id
        self._open: dict[str, Conversation] = {}
        self._opening = asyncio.Lock()
        self._draining = False
        self._warming: set[asyncio.Task[None]] = set()
        self._swept_at = 0.0
        self._shop = Workshop(
            db=db,
            policy=policy,
            launcher=launcher,
            metrics=metrics,
            instance_id=instance_id,
            turns=Slots(policy.running),
            starts=Slots(policy.starts),
            make_room=self._make_room,
        )
        metrics.live.set_function(lambda: len(self._residents()))
        turns = self._shop.turns
        metrics.running.set_function(lambda: turns.taken)
        metrics.waiting.set_function(
            lambda: turns.waiting + sum(len(each.waiting) for each in self._open.values())
        )

    # What front ends ask for.

    async def create(self, owner: Owner, **fields: Any) -> dict[str, Any]:
        self._refuse_when_draining()
        row = await self._db.run(store.create, owner, **fields)
        conversation = await self._conversation(owner, row.id)
        if self._room_is_easy():
            conversation.resident.warm()
        return self._described(row)

    async def find(self, owner: Owner, session_id: str) -> dict[str, Any]:
        row = await self._db.read(store.find, owner, session_id)
        if row is None:
            raise _no_session()
        conversation = self._open.get(session_id)
        waiting = conversation.waiting if conversation else ()
        asks = conversation.asks if conversation else {}
        return {
            **self._described(row),
            "queue": [
                {"uuid": turn.uuid, "text": turn.prompt, "place": place}
                for place, turn in enumerate(waiting, 1)
            ],
            "asks": [
                {"ask_id": ask_id, "tool": asked.ask.tool, "input": asked.ask.input}
                for ask_id, asked in asks.items()
            ],
        }

    async def list(
        self, owner: Owner, limit: int, after: Page | None
    ) -> tuple[Sequence[dict[str, Any]], Page | None]:
        rows = await self._db.read(store.of_user, owner, limit + 1, after)
        page, more = rows[:limit], rows[limit:]
        last = (page[-1].last_active_at, page[-1].id) if more else None
        return [self._described(row) for row in page], last

    async def query(
        self,
        owner: Owner,
        session_id: str,
        prompt: str,
        uuid: str,
        source: str,
        *,
        fresh: bool,
        on_drop: Callable[[], None],
    ) -> AsyncIterator[bytes]:
        self._refuse_when_draining()
        conversation = await self._conversation(owner, session_id)
        return await conversation.submit(prompt, uuid, source, fresh=fresh, on_drop=on_drop)

    async def events(
        self,
        owner: Owner,
        session_id: str,
        after: int,
        *,
        follow: bool,
        on_drop: Callable[[], None],
    ) -> AsyncIterator[bytes]:
        conversation = await self._conversation(owner, session_id)
        return conversation.journal.read(after, follow=follow, on_drop=on_drop)

    async def interrupt(self, owner: Owner, session_id: str) -> bool:
        return await (await self._conversation(owner, session_id)).interrupt()

    async def take_back(self, owner: Owner, session_id: str, uuid: str) -> None:
        await (await self._conversation(owner, session_id)).take_back(uuid)

    async def answer(
        self, owner: Owner, session_id: str, ask_id: str, decision: str, message: str
    ) -> None:
        conversation = await self._conversation(owner, session_id)
        await conversation.answer(ask_id, decision, message, owner.username)

    async def delete(self, owner: Owner, session_id: str) -> None:
        conversation = await self._conversation(owner, session_id)
        try:
            await conversation.end()
            if conversation.row.cli_id:
                await self._tidy(self._launcher.forget(conversation.row))
            await self._db.run(store.delete, session_id)
        finally:
            if self._open.get(session_id) is conversation:
                del self._open[session_id]
        await self._tidy(self._launcher.forget_tmp(session_id))

    # What happens by itself.

    async def recover(self, instance_ids: Sequence[str]) -> None:
        """Tell of what dead servers had begun, and go on with what they never started."""
        async with self._opening:  # whoever comes meanwhile finds the sessions free
            cut_off = await self._db.run(store.recover, instance_ids)
        for turn in cut_off:
            log.warning("a turn was cut off", extra={"session": turn.session_id})
        for session_id, owner in await self._db.read(store.sessions_with_queue):
            try:
                await self._conversation(owner, session_id)
            except AppError as error:
                log.warning("prompts wait on: %s", error.message, extra={"session": session_id})

    async def step(self, now: float) -> None:
        for conversation in list(self._open.values()):
            await self._step(conversation, now)
        if self._memory_is_short():
            for conversation in self._idle():
                self._evict(conversation, "memory")

    async def sweep(self, now: float, keep_days: int) -> None:
        """Events that need not be kept any longer, and folders that nobody owns."""
        if self._swept_at and now - self._swept_at < SWEEP_SECONDS:
            return
        if await self._db.run(store.forget_events_before, milliseconds() - keep_days * DAY_MS):
            return  # the rest at the next tick: what else is due may not wait for all of it
        self._swept_at = now
        known = await self._db.read(store.ids)
        for session_id in self._launcher.workspaces.kept_tmp() - known - self._open.keys():
            await self._tidy(self._launcher.forget_tmp(session_id))

    async def drain(self, seconds: float) -> None:
        """Let running turns end by themselves for so long, then stop everything."""
        self._draining = True
        async with self._opening:
            conversations = list(self._open.values())
        for conversation in conversations:
            conversation.rest()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(each.turn for each in conversations):
            await asyncio.sleep(0.05)
        await asyncio.gather(*(each.close(gently=True) for each in conversations))
        for conversation in conversations:
            await self._release(conversation)

    async def abandon(self) -> None:
        """Others have taken over what was ours: end every process and write nothing more."""
        conversations = list(self._open.values())
        self._open.clear()
        await asyncio.gather(*(each.close(gently=False) for each in conversations))

    # Inside.

    async def _conversation(self, owner: Owner, session_id: str) -> Conversation:
        conversation = self._open.get(session_id)
        if conversation is None:
            async with self._opening:
                self._refuse_when_draining()
                conversation = self._open.get(session_id)
                if conversation is None:
                    conversation = await self._take(owner, session_id)
        if conversation.row.owner.id != owner.id:
            raise _no_session()
        return conversation

    def _refuse_when_draining(self) -> None:
        if self._draining:
            raise unavailable("The server is being stopped; try again soon.")

    async def _take(self, owner: Owner, session_id: str) -> Conversation:
        if await self._db.read(store.find, owner, session_id) is None:
            raise _no_session()
        row = await self._db.run(store.hold, session_id, self._instance_id)
        if row is None:
            raise conflict("This session is in use on another server; try again there.")
        try:
            self._launcher.workspaces.prepare(row.owner)
        except OSError as error:
            raise unavailable(f"Your home can't be used: {error.strerror}.") from error
        waiting = await self._db.read(store.queued, session_id)
        conversation = self._open[session_id] = Conversation(self._shop, row)
        for turn in waiting:
            conversation.enqueue(turn)
        return conversation

    async def _step(self, conversation: Conversation, now: float) -> None:
        try:
            await conversation.step(now)
        except Exception:
            log.exception("a step broke", extra={"session": conversation.row.id})
        if conversation.idle and now - conversation.used_at > self.policy.idle_seconds:
            self._evict(conversation, "idle")
        if conversation.forgettable:
            await self._forget(conversation)

    async def _forget(self, conversation: Conversation) -> None:
        async with self._opening:
            if conversation.forgettable and conversation.row.id in self._open:
                del self._open[conversation.row.id]
                await self._release(conversation)

    async def _release(self, conversation: Conversation) -> None:
        row = conversation.row
        await conversation.journal.close(flush=False)
        try:
            await self._db.run(store.let_go, row.id, self._instance_id, conversation.journal.seq)
        except AppError as error:
            # It stays this server's until the next one finds that this one has gone.
            log.warning("a session is still held: %s", error.message, extra={"session": row.id})

    async def _tidy(self, command: Command) -> None:
        """What can't be removed keeps nobody from going on."""
        try:
            await process.run(command, seconds=TIDY_SECONDS)
        except AppError as error:
            log.warning("something was left behind: %s", error.message)

    async def _make_room(self) -> None:
        """Before a process is started: the least recently used idle ones give way."""
        while idle := self._idle():
            if self._staying() <= self.policy.resident and not self._memory_is_short():
                return
            await self._sleep(idle[0], "room")
        if self._memory_is_short():
            raise unavailable("The server is short of memory; try again in a minute.")

    def _room_is_easy(self) -> bool:
        """A start ahead of the first prompt is worth the end of an idle one, not of a busy one."""
        fits = self._staying() < self.policy.resident
        return (fits or bool(self._idle())) and not self._memory_is_short()

    def _evict(self, conversation: Conversation, reason: str) -> None:
        task = asyncio.create_task(self._sleep(conversation, reason))
        self._warming.add(task)
        task.add_done_callback(self._warming.discard)

    async def _sleep(self, conversation: Conversation, reason: str) -> None:
        if conversation.idle:
            self.metrics.evictions.labels(reason).inc()
            await conversation.sleep()

    def _residents(self) -> Sequence[Conversation]:
        return [each for each in self._open.values() if each.resident.present]

    def _staying(self) -> int:
        return sum(1 for each in self._open.values() if each.resident.stays)

    def _idle(self) -> Sequence[Conversation]:
        """Those whose process may be ended, least recently used first."""
        idle = [each for each in self._open.values() if each.idle]
        return sorted(idle, key=lambda each: each.used_at)

    def _memory_is_short(self) -> bool:
        available, total = admission.memory()
        return available < total * self.policy.memory_floor

    def _described(self, row: SessionRow | Listed) -> dict[str, Any]:
        conversation = self._open.get(row.id)
        return {
            "id": row.id,
            "title": row.title,
            "cwd": row.cwd,
            "model": row.model,
            "permission_mode": row.permission_mode,
            "purpose": row.purpose,
            "state": conversation.state if conversation else "asleep",
            "created_at": instant(row.created_at),
            "last_active_at": instant(row.last_active_at),
            "cost_usd": row.cost_usd,
        }


def _no_session() -> Exception:
    return not_found("There is no such session.")
