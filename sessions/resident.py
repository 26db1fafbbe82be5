"""A conversation's process: started ahead or when needed, put to sleep, never two at once."""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from db import Database
from sessions import store
from sessions.admission import Policy, Slots
from sessions.claude import Claude, OnExit, OnMessage, Options
from sessions.launcher import Launcher
from sessions.metrics import Metrics
from sessions.store import SessionRow
from sessions.turn import Failure

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What every conversation of this server works with."""

    db: Database
    policy: Policy
    launcher: Launcher
    metrics: Metrics
    instance_id: str
    turns: Slots
    starts: Slots
    make_room: Callable[[], Awaitable[None]]


class Resident:
    def __init__(
        self, shop: Workshop, row: SessionRow, on_lines: OnMessage, on_exit: OnExit
    ) -> None:
        self.claude: Claude | None = None
        self._shop = shop
        self._row = row
        self._on_lines = on_lines
        self._on_exit = on_exit
        self._starting: asyncio.Task[Claude] | None = None
        self._leaving: Claude | None = None
        self._ending: asyncio.Task[int] | None = None

    @property
    def state(self) -> str:
        if self._starting:
            return "starting"
        return "idle" if self.claude else "asleep"

    @property
    def present(self) -> bool:
        return bool(self.claude or self._starting or self._ending)

    @property
    def stays(self) -> bool:
        """It takes up a place among the resident ones, and is not on its way out."""
        return bool(self.claude or self._starting)

    def warm(self) -> None:
        """Start the process now, so that the first prompt need not wait for it."""
        if self.claude is None and self._starting is None:
            self._starting = asyncio.create_task(self._start())
            self._starting.add_done_callback(self._started)

    async def awake(self) -> Claude:
        self.warm()
        if self._starting:
            return await asyncio.shield(self._starting)
        assert self.claude
        return self.claude

    async def sleep(self) -> None:
        """End the process and keep everything else; the next prompt resumes it by id."""
        if self._starting:
            await asyncio.wait([self._starting])
        claude, self.claude = self.claude, None
        if claude:
            self._leaving = claude
            self._ending = asyncio.create_task(claude.end())
            self._ending.add_done_callback(self._ended)
        if self._ending:
            await asyncio.shield(self._ending)

    async def kill(self) -> None:
        if self._starting:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        claude, self.claude = self.claude or self._leaving, None
        if claude:
            await claude.kill()
        if self._ending:
            await asyncio.shield(self._ending)

    def lost(self, claude: Claude) -> bool:
        """It has ended by itself; whether it was the one that counts."""
        if claude is not self.claude:
            return False
        self.claude = None
        return True

    async def _start(self) -> Claude:
        if self._ending:
            await asyncio.shield(self._ending)
        await self._shop.make_room()
        try:
            return await self._launch()
        except Failure as failure:
            if failure.code != "resume_failed" or await self._was_answered():
                raise
        # It was cut off before the CLI wrote anything down, so there is nothing to lose.
        self._row.cli_id = None
        return await self._launch()

    async def _launch(self) -> Claude:
        claude = Claude(self._options(), self._on_lines, self._on_exit)
        async with self._shop.starts.place(self._row.owner.id, lambda place: None):
            began = time.monotonic()
            try:
                command = await self._shop.launcher.claude(self._row, claude.options)
                await claude.start(command, self._shop.policy.start_seconds)
            except OSError as error:
                why = f"Claude could not be started: {error.strerror or error}."
                raise Failure("start_failed", why) from error
        self._shop.metrics.starts.inc()
        seconds = time.monotonic() - began
        log.debug("claude started in %.3f s", seconds, extra={"session": self._row.id})
        return claude

    async def _was_answered(self) -> bool:
        return await self._shop.db.read(store.was_answered, self._row.id)

    def _started(self, task: asyncio.Task[Claude]) -> None:
        self._starting = None
        if task.cancelled():
            return
        if error := task.exception():
            # A prompt that waits for it is told; a start ahead of any prompt is only logged.
            log.warning("claude did not start: %s", error, extra={"session": self._row.id})
        elif task.result().alive:
            self.claude = task.result()

    def _ended(self, task: asyncio.Task[int]) -> None:
        self._ending = self._leaving = None

    def _options(self) -> Options:
        row = self._row
        return Options(
            cli_id=row.cli_id or str(uuid.uuid4()),
            resume=row.cli_id is not None,
            model=row.model,
            permission_mode=row.permission_mode,
            allowed_tools=tuple(row.allowed_tools),
            max_turns=row.max_turns,
            system_prompt=row.system_prompt,
        )
