"""Claude asks before it acts, and its owner answers: allow, deny, allow for the session."""

from pathlib import Path

import pytest

from main import App
from sessions.admission import Policy
from tests.e2e.api import Api, Event, Refused, Stream, last
from tests.e2e.inside import hosting, later, put_to_sleep, user
from tests.fakes.model import FakeModel, text, tool

TEN_MINUTES = 600


def wants_to(model: FakeModel, command: str, then: str = "Done.") -> None:
    model.add(tool("Bash", {"command": command}), text(then))


async def asked(api: Api, session_id: str, prompt: str = "go on") -> tuple[Stream, Event]:
    stream = await api.query(session_id, prompt)
    return stream, await stream.until("ask")


def tool_result(stream: Stream) -> Event:
    (result,) = (event for event in stream.seen if event["type"] == "tool_result")
    return result


@pytest.fixture
async def session_id(api: Api) -> str:
    return str((await api.create(permission_mode="default"))["id"])


async def test_what_its_owner_allows_is_done(
    api: Api, model: FakeModel, session_id: str, tmp_path: Path
) -> None:
    wants_to(model, "touch allowed.txt")
    stream, ask = await asked(api, session_id)
    assert (ask["tool"], ask["input"]["command"]) == ("Bash", "touch allowed.txt")
    session = await api.session(session_id)
    assert session["state"] == "waiting"
    assert [(open["ask_id"], open["tool"]) for open in session["asks"]] == [(ask["ask_id"], "Bash")]
    await api.answer(session_id, ask["ask_id"], "allow")
    answered = await stream.until("answered")
    assert (answered["ask_id"], answered["decision"], answered["by"]) == (
        ask["ask_id"],
        "allow",
        "admin",
    )
    assert last(await stream.rest())["result"] == "Done."
    assert not tool_result(stream)["is_error"]
    assert (tmp_path / "data" / "users" / "admin" / "workspace" / "allowed.txt").exists()


async def test_what_its_owner_denies_is_not_done_and_the_turn_goes_on(
    api: Api, model: FakeModel, session_id: str, tmp_path: Path
) -> None:
    wants_to(model, "touch denied.txt", "Then not.")
    stream, ask = await asked(api, session_id)
    body = {"ask_id": ask["ask_id"], "decision": "deny", "message": "Not on a Friday."}
    await api.request("POST", f"/sessions/{session_id}/answers", json=body)
    assert last(await stream.rest())["result"] == "Then not."
    assert "Not on a Friday." in tool_result(stream)["output"]
    assert not (tmp_path / "data" / "users" / "admin" / "workspace" / "denied.txt").exists()


@pytest.mark.parametrize("command", ["touch x.txt", "touch 'a, b.txt'"])
async def test_what_is_allowed_for_the_session_is_asked_no_more_even_by_another_process(
    app: App, api: Api, model: FakeModel, session_id: str, command: str
) -> None:
    wants_to(model, command)
    stream, ask = await asked(api, session_id)
    await api.answer(session_id, ask["ask_id"], "allow_session")
    assert last(await stream.rest())["outcome"] == "ok"
    wants_to(model, command)
    assert last(await api.ask(session_id, "once more"))["outcome"] == "ok"
    await put_to_sleep(app, api, session_id)
    wants_to(model, command)
    assert last(await api.ask(session_id, "and once more"))["outcome"] == "ok"
    asks = [event for event in await api.events(session_id) if event["type"] == "ask"]
    assert len(asks) == 1
    wants_to(model, "rm x.txt")
    stream, ask = await asked(api, session_id)
    await api.answer(session_id, ask["ask_id"], "deny")
    assert last(await stream.rest())["outcome"] == "ok"


async def test_a_question_that_nobody_answers_is_denied_after_ten_minutes(
    app: App, api: Api, model: FakeModel, session_id: str
) -> None:
    wants_to(model, "touch x.txt", "Nobody was there.")
    stream, _ = await asked(api, session_id)
    await later(app, TEN_MINUTES - 5)
    assert (await api.session(session_id))["state"] == "waiting"
    await later(app, TEN_MINUTES + 1)
    answered = await stream.until("answered")
    assert (answered["decision"], answered["by"]) == ("deny", "timeout")
    assert last(await stream.rest())["result"] == "Nobody was there."


async def test_a_question_is_answered_once(api: Api, model: FakeModel, session_id: str) -> None:
    wants_to(model, "touch x.txt")
    stream, ask = await asked(api, session_id)
    await api.answer(session_id, ask["ask_id"], "deny")
    with pytest.raises(Refused, match="404"):
        await api.answer(session_id, ask["ask_id"], "allow")
    assert last(await stream.rest())["outcome"] == "ok"
    with pytest.raises(Refused, match="404"):
        await api.answer(session_id, ask["ask_id"], "allow")


async def test_an_interrupt_withdraws_an_open_question(
    api: Api, model: FakeModel, session_id: str
) -> None:
    wants_to(model, "touch x.txt")
    stream, ask = await asked(api, session_id)
    assert await api.interrupt(session_id)
    answered = await stream.until("answered")
    assert (answered["ask_id"], answered["decision"], answered["by"]) == (
        ask["ask_id"],
        "deny",
        "server",
    )
    assert last(await stream.rest())["outcome"] == "interrupted"
    with pytest.raises(Refused, match="404"):
        await api.answer(session_id, ask["ask_id"], "allow")
    assert (await api.session(session_id))["state"] == "idle"


async def test_a_session_with_an_open_question_is_not_put_to_sleep_and_holds_up_nobody(
    tmp_path: Path, model: FakeModel
) -> None:
    policy = Policy(running=1, resident=1, idle_seconds=300)
    async with hosting(tmp_path / "data", model, policy) as app, user(app) as api:
        asking = await api.create(permission_mode="default")
        wants_to(model, "touch x.txt")
        stream, ask = await asked(api, asking["id"])
        await later(app, policy.idle_seconds + 1)
        other = await api.create()
        model.on("me?", text("You too."))
        assert last(await api.ask(other["id"], "me?"))["result"] == "You too."
        assert (await api.session(asking["id"]))["state"] == "waiting"
        await api.answer(asking["id"], ask["ask_id"], "allow")
        assert last(await stream.rest())["outcome"] == "ok"
