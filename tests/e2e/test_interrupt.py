"""A turn is stopped, wherever it stands, and the conversation goes on."""

import asyncio
from pathlib import Path

import pytest

from main import App
from sessions.admission import Policy
from tests.e2e import processes
from tests.e2e.api import Api, Refused, Stream, last, new_uuid, text_of
from tests.e2e.inside import hosting, put_to_sleep, user
from tests.fakes.model import FakeModel, hang, text, tool


async def stopped(api: Api, session_id: str, stream: Stream) -> None:
    """The interrupt ends the turn, and the next prompt is answered."""
    assert await api.interrupt(session_id)
    done = last(await stream.rest())
    assert (done["outcome"], done["is_error"]) == ("interrupted", True)
    assert not [event for event in stream.seen if event["type"] == "error"]
    assert last(await api.ask(session_id, "are you still there?"))["outcome"] == "ok"


async def test_an_interrupt_stops_a_turn_in_mid_text(api: Api, model: FakeModel) -> None:
    model.add(text("one two three four", hold_after=2))
    session = await api.create()
    stream = await api.query(session["id"], "count")
    await stream.until("text", offset=3)
    await stopped(api, session["id"], stream)
    assert text_of(stream.seen) == "one two"
    assert ("assistant", "one two") in model.requests[-1].history


async def test_an_interrupt_ends_a_running_tool(api: Api, model: FakeModel) -> None:
    model.add(tool("Bash", {"command": "sleep 1000"}))
    session = await api.create()
    stream = await api.query(session["id"], "wait for me")
    await stream.until("tool")
    await processes.until(lambda: processes.runs(session["id"], "sleep"))
    await stopped(api, session["id"], stream)
    assert not processes.runs(session["id"], "sleep")
    assert model.requests[-1].last_text == "are you still there?"


async def test_an_interrupt_stops_a_model_that_never_answers(api: Api, model: FakeModel) -> None:
    model.add(hang())
    session = await api.create()
    stream = await api.query(session["id"], "anybody?")
    await model.wait_for_request()
    await stopped(api, session["id"], stream)


async def test_an_interrupt_right_behind_the_prompt_is_not_lost(api: Api, model: FakeModel) -> None:
    session = await api.create()
    await api.until_state(session["id"], "idle")
    model.script.default = hang()
    for _ in range(5):
        stream = await api.query(session["id"], "a prompt that nobody meant")
        async with asyncio.timeout(5):
            assert await api.interrupt(session["id"])
            assert last(await stream.rest())["outcome"] == "interrupted"
    model.script.default = None
    assert last(await api.ask(session["id"], "but this one"))["outcome"] == "ok"


async def test_an_interrupt_stops_a_turn_whose_process_is_only_starting(
    app: App, api: Api, model: FakeModel
) -> None:
    session = await api.create()
    await api.ask(session["id"], "remember the word heron")
    await put_to_sleep(app, api, session["id"])
    stream = await api.query(session["id"], "never mind")
    await stream.until("status", state="starting")
    await stopped(api, session["id"], stream)
    assert model.received == 2
    history = str(model.requests[-1].history)
    assert "heron" in history
    assert "never mind" not in history


async def test_a_first_prompt_that_was_stopped_in_time_leaves_nothing_to_resume(
    tmp_path: Path, model: FakeModel
) -> None:
    async with hosting(tmp_path / "data", model) as app, user(app) as api:
        session = await api.create()
        stream = await api.query(session["id"], "never mind")
        await api.interrupt(session["id"])
        assert last(await stream.rest())["outcome"] == "interrupted"
    async with hosting(tmp_path / "data", model) as app, user(app) as api:
        assert last(await api.ask(session["id"], "hello"))["result"] == "You said: hello"


async def test_an_interrupt_stops_a_turn_that_waits_for_a_place(
    tmp_path: Path, model: FakeModel
) -> None:
    model.add(text("one two", hold_after=1))
    policy = Policy(running=1)
    async with hosting(tmp_path / "data", model, policy) as app, user(app) as api:
        busy, patient = await api.create(), await api.create()
        working = await api.query(busy["id"], "take your time")
        await working.until("text")
        stream = await api.query(patient["id"], "me too")
        await stream.until("status", state="queued", text="me too", place=1)
        assert await api.interrupt(patient["id"])
        assert last(await stream.rest())["outcome"] == "interrupted"
        assert model.received == 1
        model.release()
        assert last(await working.rest())["outcome"] == "ok"
        assert last(await api.ask(patient["id"], "now"))["result"] == "You said: now"


async def test_an_interrupt_of_an_idle_session_says_so_and_harms_nothing(api: Api) -> None:
    session = await api.create()
    assert not await api.interrupt(session["id"])
    assert last(await api.ask(session["id"], "first"))["result"] == "You said: first"
    assert not await api.interrupt(session["id"])
    assert last(await api.ask(session["id"], "second"))["result"] == "You said: second"


async def test_prompts_behind_an_interrupted_one_run_in_order(api: Api, model: FakeModel) -> None:
    model.on("first", text("one two", hold_after=1))
    session = await api.create()
    first = await api.query(session["id"], "first")
    await first.until("text")
    behind = [await api.query(session["id"], prompt) for prompt in ("second", "third")]
    assert await api.interrupt(session["id"])
    assert last(await first.rest())["outcome"] == "interrupted"
    results = [last(await stream.rest())["result"] for stream in behind]
    assert results == ["You said: second", "You said: third"]
    numbers = [event["turn"] for event in await api.events(session["id"]) if "outcome" in event]
    assert numbers == [1, 2, 3]


async def test_a_waiting_prompt_is_taken_back_and_never_runs(api: Api, model: FakeModel) -> None:
    model.on("first", text("one two", hold_after=1))
    session, uuid = await api.create(), new_uuid()
    first = await api.query(session["id"], "first")
    await first.until("text")
    second = await api.query(session["id"], "second", uuid=uuid)
    third = await api.query(session["id"], "third")
    assert [turn["text"] for turn in (await api.session(session["id"]))["queue"]] == [
        "second",
        "third",
    ]
    await api.take_back(session["id"], uuid)
    assert last(await second.rest())["outcome"] == "cancelled"
    await third.until("status", state="queued", place=1)
    with pytest.raises(Refused, match="404"):
        await api.take_back(session["id"], uuid)
    model.release()
    assert last(await first.rest())["result"] == "one two"
    assert last(await third.rest())["result"] == "You said: third"
    assert model.received == 2


async def test_the_log_stays_in_order_when_a_prompt_is_taken_back_in_mid_text(
    api: Api, model: FakeModel
) -> None:
    words = " ".join(f"word{n}" for n in range(20_000))
    model.add(text(words, chunks=20_000, hold_after=19_000))
    session = await api.create()
    live = await api.follow(session["id"])
    first = await api.query(session["id"], "first")
    await first.until("text")
    for _ in range(5):
        uuid = new_uuid()
        await api.query(session["id"], "never mind", uuid=uuid)
        await api.take_back(session["id"], uuid)
    model.release()
    await live.until("done", turn=1)
    seen = [event["seq"] for event in live.seen]
    assert seen == sorted(set(seen))
    replayed = await api.events(session["id"])
    assert text_of([event for event in replayed if event["turn"] == 1]) == words
    assert [event["turn"] for event in replayed if event["type"] == "done"] == [2, 3, 4, 5, 6, 1]
