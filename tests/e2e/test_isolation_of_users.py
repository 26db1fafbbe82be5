"""Two people at work at once see nothing of each other."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest

from main import App
from tests.e2e.api import Api, Event, Stream, last, new_uuid
from tests.e2e.inside import user
from tests.e2e.plain import ADMIN, Http, refused
from tests.fakes.model import FakeModel, text, tool

UNKNOWN = "0b0c7a2e-5c0e-4f0e-9a55-6d0a1c6f6a55"


class Desk(NamedTuple):
    """A user in the middle of something: a question is open, and a prompt waits behind it."""

    api: Api
    http: Http
    session: dict[str, Any]
    running: Stream
    ask: Event
    waiting: str


async def at_work(app: App, model: FakeModel, api: Api, http: Http) -> Desk:
    model.on(f"dig for {api.user}", tool("Bash", {"command": "touch dug"}), text("dug"))
    session = await api.create(title=f"{api.user}'s secret", permission_mode="default")
    running = await api.query(session["id"], f"dig for {api.user}")
    ask = await running.until("ask")
    waiting = new_uuid()
    await api.query(session["id"], f"{api.user} waits", uuid=waiting)
    return Desk(api, http, session, running, ask, waiting)


@pytest.fixture
async def desks(app: App, model: FakeModel) -> AsyncIterator[tuple[Desk, Desk]]:
    for name in ("ada", "bob"):
        await app.users.add(name)
    async with (
        user(app, "ada") as ada,
        user(app, "bob") as bob,
        Http(app.url, {**ADMIN, "X-User": "ada"}) as ada_http,
        Http(app.url, {**ADMIN, "X-User": "bob"}) as bob_http,
    ):
        both = await asyncio.gather(
            at_work(app, model, ada, ada_http), at_work(app, model, bob, bob_http)
        )
        yield both[0], both[1]


def every_route(session_id: str, waiting: str, ask_id: str) -> list[tuple[str, str, object]]:
    base = f"/sessions/{session_id}"
    return [
        ("GET", base, None),
        ("POST", f"{base}/query", {"prompt": "let me in"}),
        ("GET", f"{base}/events", None),
        ("GET", f"{base}/events?follow=1", None),
        ("POST", f"{base}/interrupt", None),
        ("DELETE", f"{base}/queue/{waiting}", None),
        ("POST", f"{base}/answers", {"ask_id": ask_id, "decision": "allow"}),
        ("DELETE", base, None),
    ]


async def test_another_users_session_is_not_there_whatever_is_asked_of_it(
    desks: tuple[Desk, Desk],
) -> None:
    ada, bob = desks
    foreign = every_route(ada.session["id"], ada.waiting, ada.ask["ask_id"])
    unknown = every_route(UNKNOWN, ada.waiting, ada.ask["ask_id"])
    for theirs, nobodys in zip(foreign, unknown, strict=True):
        said = [await bob.http(method, path, json=body) for method, path, body in (theirs, nobodys)]
        assert refused(said[0], 404, "not_found") == refused(said[1], 404, "not_found")
    # Nothing of it was done: the question is open, the prompt waits, and then all is answered.
    shown = await ada.api.session(ada.session["id"])
    assert shown["state"] == "waiting"
    assert [prompt["uuid"] for prompt in shown["queue"]] == [ada.waiting]
    await ada.api.answer(ada.session["id"], ada.ask["ask_id"], "deny")
    assert last(await ada.running.rest())["outcome"] == "ok"
    events = await (await ada.api.query(ada.session["id"], "last")).rest()
    assert last(events)["outcome"] == "ok"
    assert "let me in" not in json.dumps(await ada.api.events(ada.session["id"]))


async def test_a_question_is_not_answered_through_ones_own_session(
    desks: tuple[Desk, Desk],
) -> None:
    ada, bob = desks
    own = f"/sessions/{bob.session['id']}"
    body = {"ask_id": ada.ask["ask_id"], "decision": "allow"}
    refused(await bob.http("POST", f"{own}/answers", json=body), 404, "not_found")
    refused(await bob.http("DELETE", f"{own}/queue/{ada.waiting}"), 404, "not_found")
    assert (await ada.api.session(ada.session["id"]))["state"] == "waiting"


async def test_lists_and_streams_tell_each_of_their_own_only(desks: tuple[Desk, Desk]) -> None:
    for desk, other in (desks, desks[::-1]):
        listed = (await desk.http("GET", "/sessions")).json["sessions"]
        assert [session["id"] for session in listed] == [desk.session["id"]]
        await desk.api.answer(desk.session["id"], desk.ask["ask_id"], "allow")
        assert last(await desk.running.rest())["result"] == "dug"
        told = await desk.http("GET", f"/sessions/{desk.session['id']}/events")
        shown = await desk.http("GET", f"/sessions/{desk.session['id']}")
        for answer in (told, shown):
            assert desk.api.user.encode() in answer.body
            assert other.api.user.encode() not in answer.body
            assert other.session["id"].encode() not in answer.body


async def test_two_who_stream_at_once_each_get_their_own_words(app: App, model: FakeModel) -> None:
    names = ("ada", "bob")
    for name in names:
        await app.users.add(name)
        model.on(f"I am {name}", text(f"hello {name} " * 200, chunks=200))
    async with user(app, "ada") as ada, user(app, "bob") as bob:
        apis = (ada, bob)
        sessions = [await api.create() for api in apis]
        answers = await asyncio.gather(
            *(
                api.ask(session["id"], f"I am {api.user}")
                for api, session in zip(apis, sessions, strict=True)
            )
        )
    for name, events in zip(names, answers, strict=True):
        assert last(events)["result"].split() == ["hello", name] * 200
