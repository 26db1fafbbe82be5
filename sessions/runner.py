"""One turn after the other through the CLI: a place, a process, the prompt, the answer, an end."""

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from errors import AppError, not_found
from sessions import events, process, protocol, providers, store
from sessions.claude import Claude
from sessions.journal import Journal
from sessions.protocol import Message, Result
from sessions.resident import Resident, Workshop
from sessions.store import SessionRow, TurnRow
from sessions.turn import Asked, Failure, Running, failure_of

STOP_SECONDS = 10.0
HALT_SECONDS = 4.0
AGAIN_SECONDS = 2.0
OUTCOMES: dict[str, events.Outcome] = {"silent": "timeout", "server_stopped": "interrupted"}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a turn came out: its `done` event, what it used, and what else is now to be stored."""

    outcome: events.Outcome
    done: dict[str, Any]
    usage: list[dict[str, Any]] = field(default_factory=list)
    changes: dict[str, Any] = field(default_factory=dict)


class Runner:
    def __init__(self, shop: Workshop, row: SessionRow, journal: Journal) -> None:
        self.resident = Resident(shop, row, self._on_lines, self._on_exit)
        self._shop = shop
        self._row = row
        self._journal = journal
        self._running: Running | None = None
        self._stopping: asyncio.Task[bool] | None = None
        self._numbering: asyncio.Task[None] | None = None

    @property
    def asks(self) -> Mapping[str, Asked]:
        return self._running.asks if self._running else {}

    @property
    def preparing(self) -> bool:
        """There is a turn that has not been given its prompt: it can still be put off."""
        return self._running is not None and self._running.sent_at is None

    async def run(self, row: TurnRow) -> Ended:
        """Whatever happens, it ends."""
        running = self._running = Running(row, self._journal, time.monotonic)
        try:
            ended = await self._attempt(running)
        finally:
            self._running = None
        return self._verdict(running, ended)

    async def interrupt(self, why: Failure | None = None) -> bool:
        """Stop the running turn; whether there was one."""
        running = self._running
        if running is None or running.ended.done():
            return False
        running.stop(why)
        if running.sent_at is not None:
            await self._stop(running)
        return True

    async def halt(self, why: Failure) -> None:
        """The same for the server's end, which does not wait for long."""
        running = self._running
        try:
            async with asyncio.timeout(HALT_SECONDS):
                await self.interrupt(why)
        except TimeoutError:
            if running:
                await self._give_up(running)

    async def answer(self, ask_id: str, decision: str, message: str, by: str) -> None:
        running, claude = self._running, self.resident.claude
        ask = running.asks.get(ask_id) if running else None
        if not running or not claude or not ask:
            raise not_found("That question is not open: it was answered, or its turn has ended.")
        rules = protocol.session_rules(ask.ask) if decision == "allow_session" else []
        if decision == "deny":
            claude.reply(protocol.deny(ask.ask, message or "The user said no."))
        else:
            claude.reply(protocol.allow(ask.ask, rules))
        self._close_ask(running, ask_id, decision, by)
        if rules:
            await self._remember(protocol.rule_names(rules))

    async def step(self, now: float) -> None:
        """What must happen by itself: questions grow old, turns fall silent."""
        running, policy = self._running, self._shop.policy
        if running is None or running.ended.done():
            return
        old = [key for key, ask in running.asks.items() if now - ask.asked_at > policy.ask_seconds]
        for ask_id in old if self.resident.claude else ():
            await self.answer(ask_id, "deny", "Nobody answered in time.", "timeout")
        silence = running.silence(
            now, patience=policy.silence_seconds, tool_patience=policy.tool_seconds
        )
        if silence:
            self._stop_soon(running, Failure("silent", silence))
        elif self._journal.overfull:
            why = "The database has taken nothing for so long that the answer was stopped."
            self._stop_soon(running, Failure("storage", why))

    def tell_asleep(self) -> None:
        """Between turns; no turn's own reader hears of it."""
        self._journal.event(0, "status", state="asleep")

    async def close(self) -> None:
        """No task of its own goes on; the process is its owner's to end."""
        tasks = [task for task in (self._stopping, self._numbering) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # From the queue to the prompt.

    async def _attempt(self, running: Running) -> Result | Failure | None:
        """None when it was stopped before the prompt was given."""
        try:
            async with AsyncExitStack() as held:
                claude = await self._unless_stopped(running, held)
                sent = claude and await self._send(running, claude)
                return await running.ended if sent else None
        except Failure as failure:
            return failure
        except AppError as error:
            return Failure(error.code, error.message)
        except Exception:
            log.exception("a turn broke", extra={"session": self._row.id})
            return Failure("internal", "Something broke in the server; its log says what.")

    async def _unless_stopped(self, running: Running, held: AsyncExitStack) -> Claude | None:
        preparing = asyncio.create_task(self._prepare(running, held))
        stopped = asyncio.create_task(running.stopped.wait())
        try:
            await asyncio.wait([preparing, stopped], return_when=asyncio.FIRST_COMPLETED)
            return preparing.result() if preparing.done() else None
        finally:
            preparing.cancel()
            stopped.cancel()
            await asyncio.gather(preparing, stopped, return_exceptions=True)

    async def _prepare(self, running: Running, held: AsyncExitStack) -> Claude:
        row, owner = running.row, self._row.owner
        place = self._shop.turns.place(owner.id, running.wait_for_place)
        await held.enter_async_context(place)
        held.callback(self._withdraw_asks, running)
        fields = {"uuid": row.uuid, "text": row.prompt, "source": row.source}
        self._journal.event(row.number, "prompt", **fields)
        await asyncio.sleep(0)  # the prompt is on its way to a row before the turn counts as begun
        if row.fresh and self._row.cli_id:
            await self._begin_anew()
        if self.resident.claude is None:
            running.status("starting")
        return await self.resident.awake()

    async def _begin_anew(self) -> None:
        forget = self._shop.launcher.forget(self._row)
        await self._shop.db.run(store.change, self._row.id, cli_id=None)
        self._row.cli_id = None
        await self.resident.sleep()
        with suppress(AppError):
            await process.run(forget, seconds=self._shop.policy.start_seconds)

    async def _send(self, running: Running, claude: Claude) -> bool:
        """A turn is a started one before its prompt is written, so that none is written twice."""
        row, cli_id = running.row, claude.options.cli_id
        running.started_as = cli_id
        await self._shop.db.run(store.start_turn, row, self._shop.instance_id, cli_id)
        if running.stopped.is_set():
            return False
        if claude is not self.resident.claude:
            raise Failure("claude_died", "Claude ended before it was given the prompt.")
        running.status("running")
        running.sent()
        claude.prompt(row.prompt, row.uuid)
        return True

    # What the process says.

    def _on_lines(self, claude: Claude, lines: list[bytes]) -> None:
        self._journal.tick()
        running = self._running if claude is self.resident.claude else None
        if running and running.sent_at is None:
            running = None  # words that nobody asked for
        for line in lines:
            message = protocol.parse(line)
            if isinstance(message, protocol.Answer):
                claude.answered(message)
            elif isinstance(message, protocol.Request):
                claude.reply(protocol.refuse(message.request_id, "Not supported here."))
            elif running and not running.ended.done():
                self._dispatch_safely(running, message)
        if running:
            self._heard(running, claude)

    def _dispatch_safely(self, running: Running, message: Message) -> None:
        """One line that can't be shown may not take those behind it along."""
        try:
            self._dispatch(running, message)
        except Exception:
            log.exception("a message of claude's was lost", extra={"session": self._row.id})

    def _dispatch(self, running: Running, message: Message) -> None:
        match message:
            case protocol.Delta():
                running.on_delta(message)
            case protocol.Ask():
                self._on_ask(running, message)
            case protocol.AskWithdrawn():
                if message.request_id in running.asks:
                    self._close_ask(running, message.request_id, "deny", "server")
            case protocol.Unknown():
                self._shop.metrics.unknown.inc()
                log.debug("claude said something unknown: %s", message.kind)
            case _:
                running.on(message)
                # Until the CLI has taken a first prompt up, there is nothing to resume.
                self._row.cli_id = running.cli_id or self._row.cli_id

    def _heard(self, running: Running, claude: Claude) -> None:
        if (seconds := running.heard()) is not None:
            self._shop.metrics.first_event.observe(seconds)
        if self._journal.starved and (self._numbering is None or self._numbering.done()):
            self._numbering = asyncio.create_task(self._find_numbers(claude))

    async def _find_numbers(self, claude: Claude) -> None:
        claude.pause()
        await self._journal.reserve()
        claude.resume()

    def _on_exit(self, claude: Claude, code: int) -> None:
        if not self.resident.lost(claude):
            return
        running = self._running
        if running is None:
            self.tell_asleep()
        elif running.sent_at is not None:
            complaint = claude.process.fault or claude.complaint
            said = f": {complaint}" if complaint else "."
            why = f"Claude ended in the middle of this turn (exit {code}){said}"
            running.fail(Failure("claude_died", why))

    # Questions.

    def _on_ask(self, running: Running, ask: protocol.Ask) -> None:
        if not running.asks:
            # Whoever waits for a person holds up nobody else.
            self._shop.turns.give_back(self._row.owner.id)
        running.asked(ask)
        expires = events.milliseconds() + int(self._shop.policy.ask_seconds * 1000)
        self._journal.event(
            running.number,
            "ask",
            ask_id=ask.request_id,
            tool=ask.tool,
            input=ask.input,
            expires_at=events.instant(expires),
        )

    def _close_ask(self, running: Running, ask_id: str, decision: str, by: str) -> None:
        running.answered(ask_id)
        if not running.asks:
            self._shop.turns.lend(self._row.owner.id)
        self._journal.event(running.number, "answered", ask_id=ask_id, decision=decision, by=by)

    def _withdraw_asks(self, running: Running) -> None:
        for ask_id in list(running.asks):
            self._close_ask(running, ask_id, "deny", "server")

    async def _remember(self, rules: list[str]) -> None:
        """What was allowed for this conversation holds when its process is another one."""
        known = self._row.allowed_tools
        known += [rule for rule in rules if rule not in known]
        while len(",".join(known).encode()) > protocol.RULES_LIMIT:
            known.pop(0)  # the oldest is asked again
        tools = events.json_text(known)
        try:
            await self._shop.db.run(store.change, self._row.id, allowed_tools=tools)
        except AppError:
            log.warning("a permission holds until the server's end only: it can't be stored")

    # The end of a turn.

    def _stop_soon(self, running: Running, failure: Failure) -> None:
        if not running.stopped.is_set():
            running.stop(failure)
            self._stopping = asyncio.create_task(self.interrupt(failure))

    async def _stop(self, running: Running) -> None:
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._insist(running)
        except TimeoutError:
            await self._give_up(running)

    async def _insist(self, running: Running) -> None:
        """An interrupt that comes before the CLI took the prompt up does nothing: ask again."""
        while (claude := self.resident.claude) and not running.ended.done():
            begun_before = running.begun.done()
            await claude.interrupt()
            heard = [running.ended, *(() if begun_before else (running.begun,))]
            await asyncio.wait(heard, timeout=AGAIN_SECONDS, return_when=asyncio.FIRST_COMPLETED)

    async def _give_up(self, running: Running) -> None:
        if running.ended.done():
            return  # at the last moment; the process may be at the next turn by now
        running.fail(Failure("claude_died", "Claude did not stop, so it was ended."))
        await self.resident.kill()

    def _verdict(self, running: Running, ended: Result | Failure | None) -> Ended:
        outcome, failure = _judged(running, ended)
        if failure:
            self._shop.metrics.errors.labels(failure.code).inc()
            self._journal.event(running.number, "error", **failure.fields())
        self._shop.metrics.turns.labels(outcome).inc()
        changes = self._renamed(running)
        if not isinstance(ended, Result):
            return Ended(outcome, events.done(outcome, self._row.id), changes=changes)
        done, usage = self._accounts(running, ended, outcome)
        return Ended(outcome, done, usage, changes)

    def _renamed(self, running: Running) -> dict[str, Any]:
        """`/clear` gives the CLI's conversation another name; without a prompt it has none."""
        stored = running.started_as or self._row.cli_id
        return {"cli_id": self._row.cli_id} if stored != self._row.cli_id else {}

    def _accounts(
        self, running: Running, result: Result, outcome: events.Outcome
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        priced = not providers.is_cloud(self._row.model)
        cost = sum(one.cost_usd for one in result.spent) if priced else None
        self._row.cost_usd += cost or 0.0
        done = events.done(
            outcome,
            self._row.id,
            result=result.text,
            cost_usd=cost,
            usage=result.usage,
            num_turns=result.num_turns,
            duration_ms=result.duration_ms,
        )
        return done, store.usage_rows(self._row.owner, running.row, result, priced=priced)


def _judged(
    running: Running, ended: Result | Failure | None
) -> tuple[events.Outcome, Failure | None]:
    if isinstance(ended, Result) and not ended.is_error:
        return "ok", None  # a stop, if there was one, came too late
    failure = failure_of(ended, running.limit) if isinstance(ended, Result) else ended
    if running.stopped.is_set():
        failure = running.stopped_by
    if failure is None:
        return "interrupted", None
    return OUTCOMES.get(failure.code, "error"), failure
