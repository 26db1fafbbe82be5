"""What may not go on for ever: silence, a start, more processes than there is room for."""

from pathlib import Path

import pytest

from main import App
from sessions.admission import Policy
from tests.e2e import processes
from tests.e2e.api import Api, Event, last
from tests.e2e.inside import hosting, later, put_to_sleep, user
from tests.fakes.model import FakeModel, hang, text, tool

TWO_MINUTES = 120
HALF_AN_HOUR = 1800


def error_of(events: list[Event]) -> Event:
    (error,) = (event for event in events if event["type"] == "error")
    return error


@pytest.mark.parametrize("words", [0, 3])
async def test_a_model_that_falls_silent_is_interrupted_and_its_owner_is_told(
    app: App, api: Api, model: FakeModel, words: int
) -> None:
    model.add(hang(after=words))
    session = await api.create()
    stream = await api.query(session["id"], "anybody?")
    await model.wait_for_request()
    if words:
        await stream.until("text")
    await later(app, TWO_MINUTES - 5)
    assert (await api.session(session["id"]))["state"] == "running"
    await later(app, TWO_MINUTES + 1)
    events = await stream.rest()
    assert last(events)["outcome"] == "timeout"
    assert error_of(events)["code"] == "silent"
    assert "120 seconds" in error_of(events)["message"]
    assert last(await api.ask(session["id"], "now?"))["outcome"] == "ok"


async def test_a_running_tool_may_be_silent_for_half_an_hour(
    app: App, api: Api, model: FakeModel
) -> None:
    model.add(tool("Bash", {"command": "sleep 1000"}))
    session = await api.create()
    stream = await api.query(session["id"], "build it")
    await stream.until("tool")
    await processes.until(lambda: processes.runs(session["id"], "sleep"))
    await later(app, HALF_AN_HOUR - 5)
    assert processes.runs(session["id"], "sleep")
    await later(app, HALF_AN_HOUR + 5)
    events = await stream.rest()
    assert last(events)["outcome"] == "timeout"
    assert "30 minutes" in error_of(events)["message"]
    assert not processes.runs(session["id"], "sleep")


async def test_a_session_that_nobody_uses_is_put_to_sleep(app: App, api: Api) -> None:
    session = await api.create()
    await api.until_state(session["id"], "idle")
    reader = await api.follow(session["id"])
    await later(app, app.policy.idle_seconds - 5)
    assert (await api.session(session["id"]))["state"] == "idle"
    await put_to_sleep(app, api, session["id"])
    await reader.until("status", state="asleep")
    await processes.until(lambda: not processes.living(session["id"]))


# A CLI that does not start


def script(folder: Path, body: str) -> str:
    """A program in the CLI's place."""
    path = folder / "claude"
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "1.0 (A script)" && exit\n{body}\n')
    path.chmod(0o755)
    return str(path)


async def test_a_cli_that_does_not_get_ready_is_given_up_in_words(
    tmp_path: Path, model: FakeModel
) -> None:
    cli, policy = script(tmp_path, "echo thinking >&2; sleep 1000"), Policy(start_seconds=1)
    async with (
        hosting(tmp_path / "data", model, policy, CLAUDE_BIN=cli) as app,
        user(app) as api,
    ):
        session = await api.create()
        events = await api.ask(session["id"], "hello")
        assert last(events)["outcome"] == "error"
        assert error_of(events)["code"] == "start_timeout"
        assert "not ready after 1 second" in error_of(events)["message"]
        assert "thinking" in error_of(events)["message"]
        await processes.until(lambda: not processes.living(session["id"]))


async def test_a_cli_that_fails_at_its_start_is_quoted(tmp_path: Path, model: FakeModel) -> None:
    cli = script(tmp_path, "echo 'the wrong sort of snow' >&2; exit 3")
    async with hosting(tmp_path / "data", model, CLAUDE_BIN=cli) as app, user(app) as api:
        session = await api.create()
        events = await api.ask(session["id"], "hello")
        assert error_of(events)["code"] == "start_failed"
        assert "exit 3" in error_of(events)["message"]
        assert "the wrong sort of snow" in error_of(events)["message"]
        again = await api.ask(session["id"], "hello")
        assert error_of(again)["code"] == "start_failed"


# Room


async def test_the_least_recently_used_session_gives_way(tmp_path: Path, model: FakeModel) -> None:
    policy = Policy(resident=2)
    async with hosting(tmp_path / "data", model, policy) as app, user(app) as api:
        one, two, three = [(await api.create())["id"] for _ in range(3)]
        for session_id in (one, two, one, three):
            assert last(await api.ask(session_id, "hello"))["outcome"] == "ok"
        await api.until_state(two, "asleep")
        assert (await api.session(one))["state"] == "idle"
        assert (await api.session(three))["state"] == "idle"
        assert last(await api.ask(two, "hello again"))["outcome"] == "ok"
        assert "hello" in str(model.requests[-1].history[0])
        await api.until_state(one, "asleep")


async def test_a_running_turn_never_gives_way(tmp_path: Path, model: FakeModel) -> None:
    policy = Policy(resident=1)
    model.on("long", text("one two", hold_after=1))
    async with hosting(tmp_path / "data", model, policy) as app, user(app) as api:
        busy, other = await api.create(), await api.create()
        stream = await api.query(busy["id"], "a long story")
        await stream.until("text")
        assert last(await api.ask(other["id"], "hello"))["outcome"] == "ok"
        model.release()
        assert last(await stream.rest())["result"] == "one two"


async def test_a_free_place_goes_to_the_user_who_has_none(tmp_path: Path, model: FakeModel) -> None:
    policy = Policy(running=2)
    model.on("mine", *[text("one two", hold_after=1, gate="mine") for _ in range(3)])
    model.on("hers", text("one two", hold_after=1, gate="hers"))
    async with hosting(tmp_path / "data", model, policy) as app, user(app) as api:
        await api.request("POST", "/auth/users", json={"username": "bob"})
        async with user(app, "bob") as bob:
            mine = [await api.create() for _ in range(3)]
            hers = await bob.create()
            streams = [await api.query(each["id"], "mine") for each in mine]
            for stream in streams[:2]:
                await stream.until("text")
            await streams[2].until("status", state="queued")
            late = await bob.query(hers["id"], "hers")
            await late.until("status", state="queued", place=2)
            model.release("mine")
            await late.until("text")
            assert "text" not in [event["type"] for event in streams[2].seen]
            for gate in ("hers", "mine", "mine"):
                model.release(gate)
            for stream in (late, *streams):
                assert last(await stream.rest())["outcome"] == "ok"
