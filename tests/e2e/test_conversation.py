"""A conversation over HTTP with the real CLI: streaming, resumable, in order."""

import asyncio

from main import App
from tests.e2e.api import Api, last, new_uuid, text_of
from tests.fakes.model import FakeModel, text, tool


async def test_a_prompt_is_answered_event_by_event(api: Api, model: FakeModel) -> None:
    model.add(text("Hello from the model.", chunks=4))
    session = await api.create(title="Greetings")
    events = await api.ask(session["id"], "Say hello.")
    assert [event["type"] for event in events[:2]] == ["prompt", "status"]
    assert text_of(events) == "Hello from the model."
    done = last(events)
    assert done["outcome"] == "ok"
    assert done["result"] == "Hello from the model."
    assert done["session_id"] == session["id"]
    assert done["cost_usd"] > 0
    assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})


async def test_a_prompt_during_a_turn_waits_and_is_told_its_place(
    api: Api, model: FakeModel
) -> None:
    model.add(text("one two", chunks=2, hold_after=1), text("three"))
    session = await api.create()
    first = await api.query(session["id"], "first")
    await first.until("text")
    second = await api.query(session["id"], "second")
    opening = await anext(aiter(second))
    assert (opening["type"], opening["state"], opening["place"]) == ("status", "queued", 1)
    model.release()
    assert last(await first.rest())["result"] == "one two"
    assert last(await second.rest())["result"] == "three"


async def test_the_same_uuid_never_runs_twice(api: Api, model: FakeModel) -> None:
    session, uuid = await api.create(), new_uuid()
    one = await api.ask(session["id"], "only once", uuid=uuid)
    again = await api.ask(session["id"], "only once", uuid=uuid)
    assert text_of(again) == text_of(one)
    assert last(again) == last(one)
    assert model.received == 1


async def test_a_reader_that_comes_back_misses_nothing(api: Api, model: FakeModel) -> None:
    model.add(text("alpha beta gamma delta", chunks=8, hold_after=4))
    session = await api.create()
    stream = await api.query(session["id"], "go")
    await stream.until("text")
    live = await api.follow(session["id"])
    await live.until("text")
    stream.hang_up()
    back = await api.follow(session["id"], after=live.seen[-1]["seq"])
    model.release()
    await back.until("done")
    assert text_of([*live.seen, *back.seen]) == "alpha beta gamma delta"
    assert text_of(await api.events(session["id"])) == "alpha beta gamma delta"


async def test_an_idle_session_sleeps_and_wakes_with_its_context(
    app: App, api: Api, model: FakeModel
) -> None:
    session = await api.create()
    await api.ask(session["id"], "remember the word heron")
    await app.step(asyncio.get_running_loop().time() + app.policy.idle_seconds + 1)
    await api.until_state(session["id"], "asleep")
    assert last(await api.ask(session["id"], "which word?"))["outcome"] == "ok"
    assert "remember the word heron" in str(model.requests[-1].history)


async def test_a_tool_is_shown_with_its_output(api: Api, model: FakeModel) -> None:
    model.add(tool("Bash", {"command": "echo $((40+2))"}), text("done"))
    session = await api.create()
    events = await api.ask(session["id"], "compute")
    used = next(event for event in events if event["type"] == "tool")
    result = next(event for event in events if event["type"] == "tool_result")
    assert used["name"] == "Bash"
    assert (result["id"], result["output"], result["is_error"]) == (used["id"], "42", False)
