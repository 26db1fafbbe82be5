"""The API during turns: streams that come as they happen, and a queue with an end."""

import asyncio
import json

import pytest

from main import App
from tests.e2e.api import Api, Refused, last, new_uuid
from tests.e2e.plain import Http, refused
from tests.fakes.model import FakeModel, hang, text

QUEUE = 20


async def test_the_answer_to_a_prompt_is_ndjson_as_it_happens(api: Api, model: FakeModel) -> None:
    model.add(text("one two three", chunks=["one", " two", " three"], hold_after=1))
    session = await api.create()
    stream = await api.query(session["id"], "count")
    assert stream.response.status == 200
    assert stream.response.headers["Content-Type"] == "application/x-ndjson"
    assert "Content-Length" not in stream.response.headers
    # The model is held, and what it has said so far is here already.
    assert (await stream.until("text"))["text"] == "one"
    model.release()
    events = await stream.rest()
    assert last(events)["result"] == "one two three"
    for event in events:
        assert {"seq", "turn", "type", "at"} <= event.keys()
        assert event["at"].endswith("Z")


async def test_each_line_is_one_json_object(app: App, api: Api, model: FakeModel) -> None:
    model.add(text("line one\nline two\u2028line three"))
    session = await api.create()
    await api.ask(session["id"], "write\nlines")
    async with Http(app.url) as http:
        body = (await http("GET", f"/sessions/{session['id']}/events")).body
    assert body.endswith(b"\n")
    lines = [json.loads(line) for line in body[:-1].split(b"\n")]
    assert [line["type"] for line in lines].count("done") == 1


async def test_a_stream_that_waits_opens_with_its_place(api: Api, model: FakeModel) -> None:
    model.add(hang())
    session = await api.create()
    running = await api.query(session["id"], "first")
    await running.until("status", state="running")
    for place in (1, 2, 3):
        waiting = await api.query(session["id"], f"waits as number {place}")
        opening = await anext(aiter(waiting))
        assert opening["type"] == "status"
        assert (opening["state"], opening["place"]) == ("queued", place)


async def test_a_full_queue_says_when_to_come_again(app: App, api: Api, model: FakeModel) -> None:
    model.add(hang())
    session = await api.create()
    running = await api.query(session["id"], "first")
    await running.until("status", state="running")
    uuids = [new_uuid() for _ in range(QUEUE)]
    for uuid in uuids:
        await api.query(session["id"], "one of many", uuid=uuid)
    async with Http(app.url) as http:
        path = f"/sessions/{session['id']}/query"
        answer = await http("POST", path, json={"prompt": "one too many"})
        refused(answer, 429, "too_many")
        assert int(answer.headers["Retry-After"]) > 0
        taken = await http("DELETE", f"/sessions/{session['id']}/queue/{uuids[3].upper()}")
        assert (taken.status, taken.body) == (204, b"")
    await api.query(session["id"], "one that fits")


async def test_a_uuid_of_another_prompt_is_a_conflict(api: Api) -> None:
    session, uuid = await api.create(), new_uuid()
    await api.ask(session["id"], "one", uuid=uuid)
    with pytest.raises(Refused) as error:
        await api.query(session["id"], "another", uuid=uuid.upper())
    assert (error.value.status, error.value.code) == (409, "conflict")


async def test_the_session_that_was_used_last_is_listed_first(api: Api) -> None:
    sessions = [await api.create(title=title) for title in ("old", "middle", "new")]
    await api.ask(sessions[0]["id"], "hello")
    listed = (await api.request("GET", "/sessions"))["sessions"]
    assert [session["title"] for session in listed] == ["old", "new", "middle"]
    assert listed[0]["cost_usd"] > 0
    assert listed[0]["last_active_at"] > listed[0]["created_at"]


async def test_a_deleted_session_is_gone(app: App, api: Api) -> None:
    session = await api.create()
    await api.ask(session["id"], "hello")
    async with Http(app.url) as http:
        answer = await http("DELETE", f"/sessions/{session['id']}")
        assert (answer.status, answer.body) == (204, b"")
        for method, path in (("GET", ""), ("GET", "/events"), ("DELETE", "")):
            gone = await http(method, f"/sessions/{session['id']}{path}")
            refused(gone, 404, "not_found")
    assert (await api.request("GET", "/sessions"))["sessions"] == []


async def test_a_turn_goes_on_when_its_client_has_left(api: Api, model: FakeModel) -> None:
    model.add(text("one two", chunks=["one", " two"], hold_after=1))
    session = await api.create()
    stream = await api.query(session["id"], "count")
    await stream.until("text")
    stream.hang_up()
    model.release()
    follower = await api.follow(session["id"])
    async with asyncio.timeout(20):
        assert (await follower.until("done"))["result"] == "one two"
