"""A list of sessions: all of them, page by page, the newest activity first."""

import asyncio
import re
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

from models import Session

import pytest
import pytest_asyncio

from main import App
from tests.e2e.plain import ADMIN, Http

pytestmark = pytest.mark.asyncio(loop_scope="module")

MANY = 120
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
FIELDS = {
    "id": str,
    "title": str,
    "cwd": str,
    "model": str,
    "permission_mode": str,
    "purpose": str,
    "state": str,
    "created_at": str,
    "last_active_at": str,
    "cost_usd": float,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(app: App) -> AsyncIterator[list[str]]:
    """The ids of many sessions in the order in which they were made."""
    await app.users.add("prolific")
    async with Http(app.url, {**ADMIN, "X-User": "prolific"}) as http:
        answers = [await http("POST", "/sessions", json={"title": f"{n}"}) for n in range(MANY)]
    assert {answer.status for answer in answers} == {201}
    yield [answer.json["id"] for answer in answers]


@pytest_asyncio.fixture(loop_scope="module")
async def owner(app: App, made: list[str]) -> AsyncIterator[Http]:
    async with Http(app.url, {**ADMIN, "X-User": "prolific"}) as http:
        yield http


async def pages(http: Http, limit: int) -> list[list[dict[str, Any]]]:
    found, cursor = [], ""
    while True:
        answer = await http("GET", "/sessions", params={"limit": limit, "cursor": cursor})
        assert set(answer.json) == {"sessions", "next"}
        found.append(answer.json["sessions"])
        cursor = answer.json["next"]
        if cursor is None:
            return found


@pytest.mark.parametrize("limit", [7, 40, 60, 200])
async def test_pages_hold_each_session_exactly_once_the_newest_first(
    owner: Http, made: list[str], limit: int
) -> None:
    found = await pages(owner, limit)
    assert [len(page) for page in found[:-1]] == [limit] * (len(found) - 1)
    sessions = [session for page in found for session in page]
    assert sorted(session["id"] for session in sessions) == sorted(made)
    ranks = [(session["last_active_at"], session["id"]) for session in sessions]
    assert all(earlier > later for earlier, later in pairwise(ranks))


async def test_sessions_used_at_the_same_instant_are_each_listed_once(app: App) -> None:
    await app.users.add("synchronous")
    async with Http(app.url, {**ADMIN, "X-User": "synchronous"}) as http:
        made = [(await http("POST", "/sessions")).json["id"] for _ in range(10)]
        await app.db.run(Session.update(last_active_at=1).where(Session.id.in_(made)).execute)
        found = [session["id"] for page in await pages(http, 3) for session in page]
    assert found == sorted(made, reverse=True)


async def test_a_last_page_that_is_full_leads_nowhere(owner: Http) -> None:
    assert [len(page) for page in await pages(owner, MANY // 2)] == [MANY // 2] * 2


async def test_a_page_holds_fifty_unless_told_otherwise(owner: Http) -> None:
    assert len((await owner("GET", "/sessions")).json["sessions"]) == 50


async def test_who_has_no_session_gets_an_empty_list(app: App) -> None:
    await app.users.add("idle")
    async with Http(app.url, {**ADMIN, "X-User": "idle"}) as http:
        assert (await http("GET", "/sessions")).json == {"sessions": [], "next": None}


async def test_a_session_is_shown_alike_when_made_asked_for_and_listed(http: Http) -> None:
    fields = {"title": " Bees ", "model": "sonnet", "permission_mode": "plan", "max_turns": 3}
    made = (await http("POST", "/sessions", json=fields)).json
    shown = (await http("GET", f"/sessions/{made['id']}")).json
    (listed,) = (await http("GET", "/sessions", params={"limit": 1})).json["sessions"]
    for session in (made, shown, listed):
        assert {name: type(session[name]) for name in FIELDS} == FIELDS
        assert session["title"] == "Bees"
        assert (session["model"], session["permission_mode"]) == ("sonnet", "plan")
        assert session["purpose"] == "chat"
        assert session["state"] in {"starting", "idle", "asleep"}
        assert INSTANT.fullmatch(session["created_at"])
        assert INSTANT.fullmatch(session["last_active_at"])
    assert {name for name in FIELDS if shown[name] != listed[name]} <= {"state"}


async def test_a_list_is_never_older_than_the_answer_to_a_request_before_it(app: App) -> None:
    """Others ask for the same list all the while, and share what is read for it."""
    await app.users.add("hasty")
    async with Http(app.url, {**ADMIN, "X-User": "hasty"}) as http:
        others = [asyncio.create_task(_keep_asking(http)) for _ in range(8)]
        for _ in range(10):
            made = (await http("POST", "/sessions")).json["id"]
            assert made in await _ids(http)
            assert (await http("DELETE", f"/sessions/{made}")).status == 204
            assert made not in await _ids(http)
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def _keep_asking(http: Http) -> None:
    while True:
        await _ids(http)


async def _ids(http: Http) -> set[str]:
    return {session["id"] for session in (await http("GET", "/sessions")).json["sessions"]}
