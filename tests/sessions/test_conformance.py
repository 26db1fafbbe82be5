"""The pinned CLI still speaks as it was recorded: a handful of turns with the real one."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pytest

import config
from sessions import protocol
from sessions.claude import Options, arguments
from sessions.messages import (
    Answer,
    Ask,
    Began,
    BlockStart,
    BlockStop,
    Delta,
    Message,
    MessageStart,
    MessageStop,
    Noise,
    RateLimit,
    Result,
    Retry,
    Said,
    ToolResults,
    Unknown,
    Working,
)
from tests.fakes.model import (
    FakeModel,
    both,
    hang,
    status,
    subscription_limit,
    text,
    thinking,
    tool,
)
from tests.sessions.recorded import RECORDED

M = TypeVar("M", bound=Message)
SECONDS = 30


def kind_of(line: Mapping[str, Any]) -> str:
    """What a line is, as roughly as the protocol's own tables tell them apart."""
    event = line.get("event", {}).get("type") or line.get("request", {}).get("subtype")
    return "/".join(filter(None, (line["type"], line.get("subtype"), event)))


KINDS = {kind_of(line) for line in RECORDED.values()}


class Cli:
    """The real CLI on pipes of its own, with the arguments that the server gives it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.seen: list[Message] = []
        self.results: list[dict[str, Any]] = []

    async def next(self) -> Message:
        assert self.process.stdout
        async with asyncio.timeout(SECONDS):
            line = await self.process.stdout.readline()
        assert line, "the CLI ended"
        data = orjson.loads(line)
        assert kind_of(data) in KINDS, f"a new kind of line: {line[:500]!r}"
        if data["type"] == "result":
            self.results.append(data)
        message = protocol.parse(line)
        assert not isinstance(message, Unknown), line[:500]
        self.seen.append(message)
        return message

    async def until(self, kind: type[M]) -> M:
        while not isinstance(message := await self.next(), kind):
            pass
        return message

    def say(self, line: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(line)

    async def turn(self, prompt: str) -> tuple[list[Message], Result]:
        self.seen = []
        self.say(protocol.prompt(prompt, str(uuid.uuid4())))
        result = await self.until(Result)
        return self.seen, result

    async def control(self, subtype: str, **fields: Any) -> Answer:
        self.say(protocol.request(subtype, subtype, **fields))
        answer = await self.until(Answer)
        assert answer.request_id == subtype
        return answer


def of_kind(kind: type[M], messages: list[Message]) -> list[M]:
    return [message for message in messages if isinstance(message, kind)]


@asynccontextmanager
async def cli(
    home: Path,
    model: FakeModel,
    *,
    mode: str = "bypassPermissions",
    resume: str = "",
    **env: str,
) -> AsyncIterator[Cli]:
    name = resume or str(uuid.uuid4())
    options = Options(cli_id=name, resume=bool(resume), model="sonnet", permission_mode=mode)
    process = await asyncio.create_subprocess_exec(
        str(config.find_claude(config.read({}))),
        *arguments(options),
        cwd=home,
        env={
            "HOME": str(home),
            "TMPDIR": str(home),
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "IS_SANDBOX": "1",
            "DISABLE_AUTOUPDATER": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
            "CLAUDE_CODE_MAX_RETRIES": "2",
            "ANTHROPIC_BASE_URL": model.url,
            **(env or {"ANTHROPIC_API_KEY": "a-fake-key"}),
        },
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=64 * 1024 * 1024,
    )
    try:
        yield Cli(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
async def model() -> AsyncIterator[FakeModel]:
    async with FakeModel() as model:
        yield model


async def test_a_turn_is_told_in_the_order_that_was_recorded(
    tmp_path: Path, model: FakeModel
) -> None:
    model.add(thinking("Let me think.", then="Hello, world."), text("Again."))
    async with cli(tmp_path, model) as claude:
        assert (await claude.control("initialize")).ok
        seen, result = await claude.turn("Hello.")
        order = [type(message) for message in seen if not isinstance(message, Noise | Delta)]
        block = [BlockStart, Said, BlockStop]
        assert order == [Began, Working, MessageStart, *block, *block, MessageStop, Result]
        [began] = of_kind(Began, seen)
        assert began.cli_id == result.cli_id
        assert began.permission_mode == "bypassPermissions"
        deltas = of_kind(Delta, seen)
        spoken = {
            kind: "".join(d.text for d in deltas if d.kind == kind)
            for kind in (b"text", b"thinking")
        }
        assert spoken == {b"text": "Hello, world.", b"thinking": "Let me think."}
        said = [words for message in of_kind(Said, seen) for words in message.texts]
        assert said == [(b"thinking", "Let me think."), (b"text", "Hello, world.")]
        assert {message.message_id for message in of_kind(Said, seen)} == {
            message.message_id for message in of_kind(MessageStart, seen)
        }
        assert (result.subtype, result.is_error, result.text) == ("success", False, "Hello, world.")
        assert result.terminal_reason == "completed"

        _, second = await claude.turn("Again.")
        # Each turn's own cost, where the CLI's total goes on growing.
        assert [spent.input_tokens for spent in second.spent] == [10]
        assert claude.results[1]["total_cost_usd"] > claude.results[0]["total_cost_usd"] > 0
        own = sum(spent.cost_usd for spent in second.spent)
        assert own < claude.results[1]["total_cost_usd"]
        assert claude.process.stdin
        claude.process.stdin.close()
        assert await claude.process.wait() == 0


async def test_questions_are_asked_and_answered_as_recorded(
    tmp_path: Path, model: FakeModel
) -> None:
    touch = tool("Bash", {"command": "touch made.txt"})
    model.add(
        touch,
        text("made"),
        touch,
        text("not asked"),
        tool("Write", {"file_path": str(tmp_path / "w"), "content": "x"}),
        text("refused"),
    )
    async with cli(tmp_path, model, mode="default") as claude:
        claude.say(protocol.prompt("Make it.", str(uuid.uuid4())))
        ask = await claude.until(Ask)
        assert (ask.tool, ask.input["command"]) == ("Bash", "touch made.txt")
        assert "addRules" in {offer["type"] for offer in ask.suggestions}
        claude.say(protocol.allow(ask, protocol.session_rules(ask)))
        [done] = (await claude.until(ToolResults)).results
        assert not done.is_error
        assert (tmp_path / "made.txt").exists()
        assert (await claude.until(Result)).text == "made"

        seen, result = await claude.turn("Once more.")
        assert of_kind(Ask, seen) == []
        assert result.text == "not asked"

        claude.say(protocol.prompt("Write.", str(uuid.uuid4())))
        refused = await claude.until(Ask)
        claude.say(protocol.deny(refused, "Not today."))
        [answer] = (await claude.until(ToolResults)).results
        assert (answer.is_error, "Not today." in answer.output) == (True, True)
        assert (await claude.until(Result)).is_error is False


async def test_an_interrupt_ends_the_turn_and_not_the_process(
    tmp_path: Path, model: FakeModel
) -> None:
    model.add(hang(after=2), text("still here"))
    async with cli(tmp_path, model) as claude:
        claude.say(protocol.prompt("Talk.", str(uuid.uuid4())))
        await claude.until(Delta)
        assert (await claude.control("interrupt")).ok
        result = await claude.until(Result)
        assert (result.subtype, result.is_error) == ("error_during_execution", True)
        assert result.terminal_reason == "aborted_streaming"
        assert (result.text, result.errors) == ("", [])
        _, after = await claude.turn("Are you there?")
        assert after.text == "still here"


async def test_errors_and_retries_are_told_as_recorded(tmp_path: Path, model: FakeModel) -> None:
    model.add(status(529), text("recovered"), status(400, message="bad thing"))
    async with cli(tmp_path, model) as claude:
        seen, result = await claude.turn("Try.")
        [retry] = of_kind(Retry, seen)
        assert (retry.attempt, retry.most, retry.status) == (1, 2, 529)
        assert 0 < retry.delay_ms < 5000
        assert result.text == "recovered"
        seen, failed = await claude.turn("Fail.")
        assert (failed.subtype, failed.is_error, failed.api_status) == ("success", True, 400)
        assert failed.terminal_reason == "api_error"
        [said] = [message for message in of_kind(Said, seen) if message.is_error]
        assert said.texts == [(b"text", failed.text)]


async def test_a_subscriptions_limit_is_told_with_its_end(tmp_path: Path, model: FakeModel) -> None:
    model.add(subscription_limit(4_102_444_800))
    async with cli(tmp_path, model, CLAUDE_CODE_OAUTH_TOKEN="a-fake-token") as claude:
        seen, result = await claude.turn("Go.")
    [limit] = [one for one in of_kind(RateLimit, seen) if one.status == "rejected"]
    assert (limit.kind, limit.resets_at) == ("five_hour", 4_102_444_800)
    assert (result.is_error, result.api_status) == (True, 429)


async def test_a_conversation_that_is_cleared_has_another_name(
    tmp_path: Path, model: FakeModel
) -> None:
    async with cli(tmp_path, model) as claude:
        _, first = await claude.turn("Hello.")
        _, cleared = await claude.turn("/clear")
        assert (cleared.is_error, cleared.spent) == (False, [])
        _, second = await claude.turn("Hello again.")
    assert first.cli_id != cleared.cli_id == second.cli_id
    assert "Hello." not in str(model.requests[-1].history)


async def test_two_tools_in_one_message_have_a_line_each(tmp_path: Path, model: FakeModel) -> None:
    calls = [tool("Bash", {"command": f"echo {word}"}) for word in ("one", "two")]
    model.add(both(*calls), text("done"))
    async with cli(tmp_path, model) as claude:
        seen, result = await claude.turn("Both.")
    assert [[name for _, name, _ in said.tools] for said in of_kind(Said, seen)] == [
        ["Bash"],
        ["Bash"],
        [],
    ]
    results = [one.results for one in of_kind(ToolResults, seen)]
    # The quicker one comes first.
    assert sorted([one.output for one in lines] for lines in results) == [["one"], ["two"]]
    assert result.text == "done"


async def test_an_unknown_conversation_ends_the_cli_with_its_sentence(
    tmp_path: Path, model: FakeModel
) -> None:
    async with cli(tmp_path, model, resume=str(uuid.uuid4())) as claude:
        out, err = await claude.process.communicate()
        assert claude.process.returncode == 1
    assert b"No conversation found" in err
    result = protocol.parse(out)
    assert isinstance(result, Result)
    assert (result.is_error, result.spent, result.terminal_reason) == (True, [], "")
