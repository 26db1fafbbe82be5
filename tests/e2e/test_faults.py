"""What a model can do to a turn: errors, retries, limits, cuts, long answers; and the cost."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from main import App
from tests.e2e import processes
from tests.e2e.api import Api, Event, Refused, last, text_of
from tests.e2e.inside import hosting, put_to_sleep, user
from tests.fakes.model import (
    FakeModel,
    big,
    cut,
    status,
    subscription_limit,
    text,
    thinking,
    tool,
)


def errors(events: list[Event]) -> list[Event]:
    return [event for event in events if event["type"] == "error"]


# Errors of the API


@pytest.mark.parametrize(
    ("http", "code"), [(400, "api_error"), (403, "login"), (404, "model"), (413, "api_error")]
)
async def test_an_error_of_the_api_is_told_and_the_session_goes_on(
    api: Api, model: FakeModel, http: int, code: str
) -> None:
    model.on("go wrong", status(http, message="The reason why."))
    session = await api.create()
    events = await api.ask(session["id"], "go wrong")
    assert (last(events)["outcome"], last(events)["is_error"]) == ("error", True)
    (error,) = errors(events)
    assert error["code"] == code
    assert error["message"]
    assert text_of(events) == ""
    assert last(await api.ask(session["id"], "go on"))["result"] == "You said: go on"


async def test_retries_are_shown_while_they_last(api: Api, model: FakeModel) -> None:
    model.add(status(529, times=2), text("At last."))
    session = await api.create()
    events = await api.ask(session["id"], "hello")
    retries = [event for event in events if event.get("state") == "retrying"]
    assert [retry["attempt"] for retry in retries] == [1, 2]
    assert {retry["http_status"] for retry in retries} == {529}
    assert "529" in retries[0]["detail"]
    assert last(events)["result"] == text_of(events) == "At last."


async def test_an_api_that_stays_overloaded_is_told_as_such(api: Api, model: FakeModel) -> None:
    model.script.default = status(529)
    session = await api.create()
    events = await api.ask(session["id"], "hello")
    assert last(events)["outcome"] == "error"
    assert errors(events)[0]["code"] == "overloaded"


async def test_a_wrong_key_is_retried_until_its_owner_has_had_enough(
    api: Api, model: FakeModel
) -> None:
    model.script.default = status(401)
    session = await api.create()
    stream = await api.query(session["id"], "hello")
    await stream.until("status", state="retrying", http_status=401)
    assert await api.interrupt(session["id"])
    assert last(await stream.rest())["outcome"] == "interrupted"


async def test_what_was_shown_of_an_answer_that_broke_off_is_withdrawn(
    api: Api, model: FakeModel
) -> None:
    model.add(cut(after=3), text("A whole answer."))
    session = await api.create()
    events = await api.ask(session["id"], "hello")
    (retry,) = (event for event in events if event.get("state") == "retrying")
    assert retry["void_blocks"] == [0]
    assert "one" in "".join(event["text"] for event in events if event["type"] == "text")
    assert last(events)["result"] == text_of(events) == "A whole answer."
    assert text_of(await api.events(session["id"])) == "A whole answer."


async def test_a_subscriptions_limit_tells_when_it_ends(tmp_path: Path, model: FakeModel) -> None:
    model.add(subscription_limit(resets_at=4102444800))
    token = "a-fake-token"
    subscribed = hosting(
        tmp_path / "data", model, CLAUDE_CODE_OAUTH_TOKEN=token, ANTHROPIC_API_KEY=""
    )
    async with subscribed as app, user(app) as api:
        session = await api.create()
        events = await api.ask(session["id"], "hello")
        (error,) = errors(events)
        assert error["code"] == "usage_limit"
        assert error["resets_at"] == "2100-01-01T00:00:00.000Z"
        assert last(events)["outcome"] == "error"
        assert last(await api.ask(session["id"], "and now?"))["outcome"] == "ok"
        assert model.requests[-1].authorization == f"Bearer {token}"


async def test_a_turn_may_have_no_more_steps_than_its_session_allows(
    api: Api, model: FakeModel
) -> None:
    model.script.default = tool("Bash", {"command": "true"})
    session = await api.create(max_turns=2)
    events = await api.ask(session["id"], "for ever")
    assert last(events)["outcome"] == "error"
    (error,) = errors(events)
    assert error["code"] == "max_turns"
    assert "2" in error["message"]
    model.script.default = None
    assert last(await api.ask(session["id"], "go on"))["outcome"] == "ok"


# What is said


async def test_an_answer_of_16_mib_comes_whole(api: Api, model: FakeModel) -> None:
    model.add(big())
    session = await api.create()
    events = await api.ask(session["id"], "at length")
    answer = last(events)["result"]
    assert len(answer) == 16 * 1024 * 1024
    assert text_of(events) == answer
    assert text_of(await api.events(session["id"])) == answer
    assert last(await api.ask(session["id"], "go on"))["outcome"] == "ok"


async def test_thoughts_are_shown_apart_from_the_answer(api: Api, model: FakeModel) -> None:
    model.add(thinking("Let me see.", "Here it is."))
    session = await api.create()
    events = await api.ask(session["id"], "think")
    assert text_of(events, "thinking") == "Let me see."
    assert text_of(events) == last(events)["result"] == "Here it is."
    replayed = await api.events(session["id"])
    assert text_of(replayed, "thinking") == "Let me see."


async def test_a_text_in_which_somebody_queues_a_prompt_keeps_its_offsets(
    api: Api, model: FakeModel
) -> None:
    model.on("first", text("one two three four", hold_after=2))
    session = await api.create()
    stream = await api.query(session["id"], "first")
    await stream.until("text", text=" two")
    behind = await api.query(session["id"], "second")
    await behind.until("status", state="queued")
    model.release()
    assert text_of(await stream.rest()) == "one two three four"
    replayed = [event for event in await api.events(session["id"]) if event["turn"] == 1]
    assert text_of(replayed) == "one two three four"
    await behind.rest()


async def test_a_cleared_conversation_stays_cleared(
    app: App, api: Api, model: FakeModel, tmp_path: Path
) -> None:
    session = await api.create()
    await api.ask(session["id"], "remember the word heron")
    assert last(await api.ask(session["id"], "/clear"))["outcome"] == "ok"
    await api.ask(session["id"], "remember the word egret")
    await put_to_sleep(app, api, session["id"])
    assert last(await api.ask(session["id"], "which word?"))["outcome"] == "ok"
    history = str(model.requests[-1].history)
    assert "egret" in history
    assert "heron" not in history
    await api.delete(session["id"])
    kept = (tmp_path / "data" / "users" / "admin" / ".claude" / "projects").rglob("*.jsonl")
    assert not [file for file in kept if "egret" in file.read_text()]


# What it cost


def usage_of(data_dir: Path, session_id: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(f"file:{data_dir}/orchestrator.db?mode=ro", uri=True)) as db:
        db.row_factory = sqlite3.Row
        rows = db.execute("SELECT * FROM usage WHERE session_id = ? ORDER BY id", (session_id,))
        return [dict(row) for row in rows]


async def test_each_turn_is_accounted_for_whatever_became_of_its_process(
    app: App, api: Api, model: FakeModel, tmp_path: Path
) -> None:
    session = await api.create()
    answer = text("four and sixty characters, which the model counts as sixteen....")
    dones = []
    for turn in range(6):
        model.add(answer)
        dones.append(last(await api.ask(session["id"], "the same again")))
        if turn == 1:
            await put_to_sleep(app, api, session["id"])
        if turn == 3:
            processes.kill(processes.cli_of(session["id"]))
            await api.until_state(session["id"], "asleep")
    rows = usage_of(tmp_path / "data", session["id"])
    assert [row["turn"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {row["input_tokens"] for row in rows} == {10}
    assert {row["output_tokens"] for row in rows} == {17}
    assert {done["usage"]["output_tokens"] for done in dones} == {17}
    costs = {round(row["cost_usd"], 9) for row in rows}
    assert len(costs) == 1
    assert min(costs) > 0
    assert [done["cost_usd"] for done in dones] == [row["cost_usd"] for row in rows]
    total = (await api.session(session["id"]))["cost_usd"]
    assert total == pytest.approx(sum(row["cost_usd"] for row in rows))
    await api.delete(session["id"])
    assert len(usage_of(tmp_path / "data", session["id"])) == 6


async def test_a_turn_with_a_tool_counts_all_its_requests(
    api: Api, model: FakeModel, tmp_path: Path
) -> None:
    model.add(tool("Bash", {"command": "true"}), text("Done."))
    session = await api.create()
    done = last(await api.ask(session["id"], "go on"))
    (row,) = usage_of(tmp_path / "data", session["id"])
    assert (row["input_tokens"], row["output_tokens"]) == (20, 22)
    assert done["usage"]["input_tokens"] == 20
    assert row["duration_ms"] == done["duration_ms"] > 0


# Other models


async def test_a_cloud_model_goes_to_ollama_and_has_no_price(
    tmp_path: Path, model: FakeModel
) -> None:
    async with (
        FakeModel() as ollama,
        hosting(tmp_path / "data", model, OLLAMA_BASE_URL=ollama.url) as app,
        user(app) as api,
    ):
        session = await api.create(model="glm-5.1:cloud")
        done = last(await api.ask(session["id"], "hello"))
        assert (done["outcome"], done["cost_usd"]) == ("ok", None)
        assert done["usage"]["input_tokens"] == 10
        request = ollama.requests[-1]
        assert request.model == "glm-5.1:cloud"
        assert request.authorization == "Bearer ollama"
        assert "x-api-key" not in {name.lower() for name in request.headers}
        assert model.received == 0
        (row,) = usage_of(tmp_path / "data", session["id"])
        assert (row["model"], row["cost_usd"], row["input_tokens"]) == ("glm-5.1:cloud", None, 10)


@pytest.mark.parametrize("name", ["-p", "--dangerously-skip-permissions", "two words", "a" * 200])
async def test_a_models_name_that_could_be_an_option_is_refused(api: Api, name: str) -> None:
    with pytest.raises(Refused, match="422"):
        await api.create(model=name)


async def test_turns_of_two_sessions_do_not_wait_for_each_other(api: Api, model: FakeModel) -> None:
    model.on("slow", text("one two", hold_after=1))
    slow, quick = await asyncio.gather(api.create(), api.create())
    stream = await api.query(slow["id"], "slow")
    await stream.until("text")
    assert last(await api.ask(quick["id"], "quick"))["result"] == "You said: quick"
    model.release()
    assert last(await stream.rest())["result"] == "one two"
