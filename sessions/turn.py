"""A turn that runs: the CLI's messages become the session's events."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sessions import events
from sessions.journal import Journal
from sessions.protocol import (
    Ask,
    Began,
    BlockStart,
    BlockStop,
    Delta,
    Json,
    Message,
    MessageStart,
    RateLimit,
    Result,
    Retry,
    Said,
    ToolResult,
    ToolResults,
    Working,
)
from sessions.store import TurnRow

WORDS = {"text": b"text", "thinking": b"thinking"}


class Failure(Exception):
    """Why a turn could not be done, for its `error` event."""

    def __init__(self, code: str, message: str, *, resets_at: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.resets_at = resets_at

    def fields(self) -> dict[str, Any]:
        resets = {"resets_at": events.instant(self.resets_at * 1000)} if self.resets_at else {}
        return {"code": self.code, "message": self.message, **resets}


@dataclass(frozen=True, slots=True)
class Asked:
    ask: Ask
    asked_at: float


class Running:
    def __init__(self, row: TurnRow, journal: Journal, clock: Callable[[], float]) -> None:
        self.row = row
        self.number = row.number
        loop = asyncio.get_running_loop()
        self.begun: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[Result] = loop.create_future()
        self.stopped = asyncio.Event()
        self.stopped_by: Failure | None = None  # None, too, when its owner stopped it
        self.sent_at: float | None = None
        self.asks: dict[str, Asked] = {}
        self.started_as: str | None = None  # the CLI's conversation that its row names
        self.cli_id: str | None = None
        self.limit: RateLimit | None = None
        self._journal = journal
        self._clock = clock
        self._first_heard = False
        self._quiet_since = clock()
        self._tools: dict[str, float] = {}
        self._block = -1
        self._blocks: dict[int, tuple[int, bytes]] = {}
        self._unsaid: set[int] = set()  # shown, and not yet said to belong to the answer
        self._streamed = ""

    def status(self, state: str, **fields: Any) -> None:
        self._journal.event(self.number, "status", state=state, **fields)

    def wait_for_place(self, place: int) -> None:
        detail = "Waiting for a free place: the server works on other prompts."
        row = self.row
        self.status("queued", place=place, detail=detail, uuid=row.uuid, text=row.prompt)

    def stop(self, why: Failure | None) -> None:
        if not self.stopped.is_set():
            self.stopped_by = why
            self.stopped.set()

    def sent(self) -> None:
        self.sent_at = self._quiet_since = self._clock()

    def heard(self) -> float | None:
        """Something came; how long the first word took, when it was the first."""
        self._quiet_since = max(self._clock(), self._quiet_since)
        if self._first_heard or self.sent_at is None:
            return None
        self._first_heard = True
        return self._quiet_since - self.sent_at

    def asked(self, ask: Ask) -> None:
        self.asks[ask.request_id] = Asked(ask, self._clock())

    def answered(self, ask_id: str) -> None:
        """While somebody thought about it, neither Claude nor a tool was at work."""
        del self.asks[ask_id]
        self.heard()
        self._tools = dict.fromkeys(self._tools, self._clock())

    def silence(self, now: float, *, patience: float, tool_patience: float) -> str | None:
        """Why this turn has been quiet for too long, if it has."""
        if self.sent_at is None or self.asks or self.ended.done():
            return None
        if self._tools:
            if now - min(self._tools.values()) <= tool_patience:
                return None
            return f"A tool ran for more than {tool_patience / 60:.0f} minutes, so it was stopped."
        if now - self._quiet_since <= patience:
            return None
        return f"Nothing was heard from Claude for {patience:.0f} seconds, so it was stopped."

    def on_delta(self, message: Delta) -> None:
        block, kind = self._blocks.get(message.index) or self._new_block(
            message.index, message.kind
        )
        self._unsaid.add(block)
        self._journal.text(self.number, kind, block, message.text)

    def on_message_start(self, message: MessageStart) -> None:
        self._streamed = message.message_id
        self._withdraw()

    def on_block_start(self, message: BlockStart) -> None:
        if kind := WORDS.get(message.kind):
            self._new_block(message.index, kind)

    def on_block_stop(self, message: BlockStop) -> None:
        self._journal.seal()

    def on_began(self, message: Began) -> None:
        self.cli_id = message.cli_id
        if not self.begun.done():
            self.begun.set_result(None)

    def on_working(self, message: Working) -> None:
        if message.detail and message.detail != "requesting":
            self.status("running", detail=message.detail)

    def on_said(self, message: Said) -> None:
        if message.message_id == self._streamed:
            self._unsaid.clear()
        elif not (message.parent or message.is_error):
            self._withdraw()
            for kind, text in message.texts:
                self._say(kind, text)
        for tool_id, name, tool_input in message.tools:
            self._tools[tool_id] = self._clock()
            self._tool_event("tool", message.parent, id=tool_id, name=name, input=tool_input)

    def on_tool_results(self, message: ToolResults) -> None:
        for result in message.results:
            self._tool_result(result)

    def on_retry(self, message: Retry) -> None:
        # The CLI says nothing while it waits, which is no silence of the model.
        self._quiet_since = self._clock() + message.delay_ms / 1000
        cause = f"HTTP {message.status}" if message.status else "no answer"
        seconds = message.delay_ms / 1000
        self.status(
            "retrying",
            detail=f"Attempt {message.attempt} of {message.most} in {seconds:.1f} s ({cause}).",
            attempt=message.attempt,
            max_attempts=message.most,
            http_status=message.status,
            void_blocks=self._voided(),
        )

    def on_rate_limit(self, message: RateLimit) -> None:
        if message.status == "rejected":
            self.limit = message

    def on_result(self, message: Result) -> None:
        self.cli_id = message.cli_id
        if not self.ended.done():
            self.ended.set_result(message)

    def on(self, message: Message) -> None:
        if handler := HANDLERS.get(type(message)):
            handler(self, message)

    def fail(self, failure: Failure) -> None:
        if not self.ended.done():
            self.ended.set_exception(failure)

    def _new_block(self, index: int, kind: bytes) -> tuple[int, bytes]:
        self._block += 1
        self._blocks[index] = self._block, kind
        return self._block, kind

    def _voided(self) -> list[int]:
        """What was shown of an answer that broke off; the next attempt begins it anew."""
        unsaid, self._unsaid, self._blocks = self._unsaid, set(), {}
        return sorted(unsaid)

    def _withdraw(self) -> None:
        """An answer that begins anew need not have been announced as a retry."""
        if blocks := self._voided():
            self.status("running", void_blocks=blocks)

    def _say(self, kind: bytes, text: str) -> None:
        self._block += 1
        self._journal.text(self.number, kind, self._block, text)
        self._journal.seal()

    def _tool_result(self, result: ToolResult) -> None:
        self._tools.pop(result.tool_id, None)
        fields = events.tool_result(result.tool_id, result.output, is_error=result.is_error)
        self._tool_event("tool_result", result.parent, **fields)

    def _tool_event(self, kind: str, parent: str | None, **fields: Any) -> None:
        nested: Json = {"parent": parent} if parent else {}
        self._journal.event(self.number, kind, **fields, **nested)


HANDLERS: dict[type, Callable[[Running, Any], None]] = {
    MessageStart: Running.on_message_start,
    BlockStart: Running.on_block_start,
    BlockStop: Running.on_block_stop,
    Began: Running.on_began,
    Working: Running.on_working,
    Said: Running.on_said,
    ToolResults: Running.on_tool_results,
    Retry: Running.on_retry,
    RateLimit: Running.on_rate_limit,
    Result: Running.on_result,
}


def failure_of(result: Result, limit: RateLimit | None) -> Failure | None:
    """What went wrong in a turn that the CLI itself brought to its end (pure)."""
    if not result.is_error:
        return None
    sentence = result.text or "; ".join(result.errors) or "Claude could not finish this turn."
    if limit and result.api_status == 429:
        return Failure("usage_limit", sentence, resets_at=limit.resets_at)
    if result.subtype == "error_max_turns":
        return Failure("max_turns", f"{sentence}.")
    return Failure(_code(result.api_status, result.subtype), sentence)


def _code(status: int | None, subtype: str) -> str:
    codes = {401: "login", 403: "login", 404: "model", 429: "rate_limited", 529: "overloaded"}
    if status is None:
        return "claude_failed" if subtype != "success" else "api_error"
    return codes.get(status, "api_error")
