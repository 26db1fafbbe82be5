"""The Claude Code CLI on a process: start, send, ask, interrupt, end."""

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import unavailable
from sessions import protocol
from sessions.command import Command, gated
from sessions.process import Process, run
from sessions.turn import Failure

INTERRUPT_SECONDS = 3.0
VERSION_SECONDS = 10.0
GONE = "No conversation found"

OnMessage = Callable[["Claude", list[bytes]], None]
OnExit = Callable[["Claude", int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    cli_id: str
    resume: bool
    model: str
    permission_mode: str
    allowed_tools: tuple[str, ...] = ()
    max_turns: int | None = None
    system_prompt: str = ""


def arguments(options: Options) -> list[str]:
    """Nothing secret and nothing long: those go by other ways."""
    given = [
        "-p",
        "--input-format=stream-json",
        "--output-format=stream-json",
        "--verbose",
        "--include-partial-messages",
        "--permission-prompt-tool=stdio",
        f"--permission-mode={options.permission_mode}",
        "--disallowedTools=ScheduleWakeup,Monitor,CronCreate,CronDelete,CronList",
        f"--resume={options.cli_id}" if options.resume else f"--session-id={options.cli_id}",
    ]
    if options.model:
        given.append(f"--model={options.model}")
    if options.allowed_tools:
        given.append(f"--allowedTools={','.join(options.allowed_tools)}")
    if options.max_turns:
        given.append(f"--max-turns={options.max_turns}")
    return given


async def version(cli: Path) -> str:
    env = {"HOME": "/nonexistent", "PATH": "/usr/local/bin:/usr/bin:/bin"}
    command = Command(gated(Path("/"), (str(cli), "--version")), env)
    ended = await run(command, seconds=VERSION_SECONDS)
    if ended.code != 0:
        raise unavailable(f"{cli} does not run: {ended.stderr.strip() or ended.code}.")
    return ended.stdout.strip().partition(" ")[0]


class Claude:
    def __init__(self, options: Options, on_lines: OnMessage, on_exit: OnExit) -> None:
        self.options = options
        self._on_lines = on_lines
        self._on_exit = on_exit
        self._numbers = itertools.count(1)
        self._answers: dict[str, asyncio.Future[protocol.Answer]] = {}
        self._ready = False
        self._process: Process | None = None

    async def start(self, command: Command, seconds: float) -> None:
        """Until the CLI has said that it is ready; before that no prompt may be written."""
        process = await Process.start(command, on_lines=self._lines, on_exit=self._exited)
        self._process = process
        try:
            if process.exited.done():
                raise self._death(process.exited.result())
            async with asyncio.timeout(seconds):
                await self._initialize()
        except TimeoutError:
            await self.kill()
            raise self._too_slow(seconds) from None
        except BaseException:
            await self.kill()
            raise
        self._ready = True

    @property
    def process(self) -> Process:
        assert self._process, "start() comes first"
        return self._process

    @property
    def alive(self) -> bool:
        return self._process is not None and not self._process.exited.done()

    @property
    def complaint(self) -> str:
        """The last of what it wrote to stderr."""
        lines = self.process.stderr_tail.strip().splitlines()
        return " ".join(lines[-3:])[-500:]

    def memory(self) -> int:
        return self.process.memory()

    def prompt(self, text: str, uuid: str) -> None:
        self.process.write(protocol.prompt(text, uuid))

    def reply(self, line: bytes) -> None:
        self.process.write(line)

    async def control(self, subtype: str, **fields: Any) -> protocol.Answer:
        request_id = f"{subtype}-{next(self._numbers)}"
        answer: asyncio.Future[protocol.Answer] = asyncio.get_running_loop().create_future()
        self._answers[request_id] = answer
        try:
            self.process.write(protocol.request(request_id, subtype, **fields))
            return await answer
        finally:
            del self._answers[request_id]

    async def interrupt(self) -> bool:
        """Ask it to stop the turn; whether it has heard."""
        try:
            async with asyncio.timeout(INTERRUPT_SECONDS):
                return (await self.control("interrupt")).ok
        except (TimeoutError, Failure):
            return False

    def answered(self, answer: protocol.Answer) -> None:
        waiting = self._answers.get(answer.request_id)
        if waiting and not waiting.done():
            waiting.set_result(answer)

    def pause(self) -> None:
        self.process.pause()

    def resume(self) -> None:
        self.process.resume()

    async def end(self) -> int:
        return await self.process.end()

    async def kill(self) -> int:
        self.process.kill()
        return await self.process.wait()

    async def _initialize(self) -> None:
        extra = {}
        if self.options.system_prompt:
            extra["appendSystemPrompt"] = self.options.system_prompt
        answer = await self.control("initialize", **extra)
        if not answer.ok:
            raise Failure("start_failed", f"Claude refused to start: {answer.error}.")

    def _lines(self, lines: list[bytes]) -> None:
        self._on_lines(self, lines)

    def _exited(self, code: int) -> None:
        if self._process is None:
            return  # it was gone before start() had it in hand
        failure = self._death(code)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(failure)
        if self._ready:
            self._on_exit(self, code)

    def _too_slow(self, seconds: float) -> Failure:
        said = f" It said: {self.complaint}" if self.complaint else ""
        why = f"Claude was not ready after {seconds:.0f} seconds, so its start was given up.{said}"
        return Failure("start_timeout", why)

    def _death(self, code: int) -> Failure:
        said = self.complaint
        if GONE in said:
            return Failure(
                "resume_failed",
                "Claude no longer has the earlier part of this conversation. Send the prompt "
                'with "fresh": true to begin anew in this session.',
            )
        return Failure("start_failed", f"Claude could not be started (exit {code}): {said}")
