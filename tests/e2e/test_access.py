"""Who may call what: every route of the table, and every kind of caller."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

from models import User

import pytest
import pytest_asyncio

from main import App
from panel.caller import Rule
from panel.health.handlers import HealthHandlers
from panel.routes import routes
from panel.sessions.handlers import SessionHandlers
from panel.users.handlers import UserHandlers
from tests.e2e.plain import ADMIN, Answer, Http, quiet, refused, without_turns
from tests.e2e.server import API_KEY, Server, serving
from tests.fakes.model import FakeModel

pytestmark = pytest.mark.asyncio(loop_scope="module")

METRICS_TOKEN = "a-token-for-the-scraper"
NOTHING: Any = None  # the table is only read here
TABLE = routes(
    SessionHandlers(NOTHING, NOTHING, "", ""),
    UserHandlers(NOTHING),
    HealthHandlers(NOTHING, NOTHING, NOTHING),
)
RULES = [(method, path, rule) for method, path, _, rule in TABLE]
RULES += [("HEAD", path, rule) for method, path, rule in RULES if method == "GET"]

KEY = {"X-API-Key": API_KEY}
CALLERS: dict[str, dict[str, str]] = {
    "nobody": {},
    "a name without a key": {"X-User": "admin"},
    "a wrong key": {"X-API-Key": API_KEY[:-1], "X-User": "admin"},
    "an empty key": {"X-API-Key": "", "X-User": "admin"},
    "a key that is no text": {"X-API-Key": "\udcff\udcfe", "X-User": "admin"},
    "the key as a bearer": {"Authorization": f"Bearer {API_KEY}", "X-User": "admin"},
    "the key": KEY,
    "the key for nobody": {**KEY, "X-User": ""},
    "the key for a stranger": {**KEY, "X-User": "nobody-here"},
    "the key for no name at all": {**KEY, "X-User": "../admin \udcff"},
    "the key for a disabled user": {**KEY, "X-User": "barred"},
    "the key for a user": ADMIN,
    "the scraper": {"Authorization": f"Bearer {METRICS_TOKEN}", "X-User": "admin"},
    "a wrong scraper": {"Authorization": f"Bearer {METRICS_TOKEN}x", "X-User": "admin"},
}
# What is not named here is let in.
STRANGERS = dict.fromkeys(
    (
        "nobody",
        "a name without a key",
        "a wrong key",
        "an empty key",
        "a key that is no text",
        "the key as a bearer",
        "the scraper",
        "a wrong scraper",
    ),
    (401, "unauthorized"),
)
REFUSED: dict[Rule, dict[str, tuple[int, str]]] = {
    Rule.ANYONE: {},
    Rule.ADMIN: STRANGERS,
    Rule.SCRAPER: {name: told for name, told in STRANGERS.items() if name != "the scraper"},
    Rule.USER: {
        **STRANGERS,
        "the key": (400, "bad_request"),
        "the key for nobody": (400, "bad_request"),
        "the key for a stranger": (404, "not_found"),
        "the key for no name at all": (404, "not_found"),
        "the key for a disabled user": (403, "forbidden"),
    },
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    folder = tmp_path_factory.mktemp("access")
    async with quiet(folder, METRICS_TOKEN=METRICS_TOKEN) as app:
        await app.users.add("barred")
        await disable(app, "barred")
        yield app


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def closed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """A server that takes no key in the address."""
    folder = tmp_path_factory.mktemp("closed")
    settings = {**without_turns(folder), "ALLOW_QUERY_API_KEY": "0"}
    async with serving(folder / "data", FakeModel(), **settings) as server:
        yield server


async def disable(app: App, name: str) -> None:
    await app.db.run(User.update(disabled=True).where(User.username == name).execute)


async def called(url: str, headers: dict[str, str], method: str, path: str) -> Answer:
    async with Http(url, headers) as http:
        return await http(method, path)


def somewhere(path: str) -> str:
    return path.replace("{id}", str(uuid.uuid4())).replace("{uuid}", str(uuid.uuid4()))


def let_in(answer: Answer) -> bool:
    """What the handler itself says of a session that is not there, or of an empty body."""
    named = b"user" in answer.body and answer.status in (400, 404)
    return answer.status not in (401, 403) and not named


def judge(answer: Answer, told: tuple[int, str] | None, method: str) -> None:
    if told is None:
        assert let_in(answer), answer
    elif method == "HEAD":
        assert (answer.status, answer.body) == (told[0], b"")
    else:
        refused(answer, *told)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize(("method", "path", "rule"), RULES)
async def test_a_route_lets_in_whom_its_rule_names(
    app: App, method: str, path: str, rule: Rule, caller: str
) -> None:
    answer = await called(app.url, CALLERS[caller], method, somewhere(path))
    judge(answer, REFUSED[rule].get(caller), method)


@pytest.mark.parametrize(("method", "path", "rule"), RULES)
async def test_a_key_in_the_address_is_as_good_as_one_in_a_header(
    app: App, method: str, path: str, rule: Rule
) -> None:
    right, wrong = (f"{somewhere(path)}?api_key={key}" for key in (API_KEY, "x" + API_KEY))
    judge(await called(app.url, {"X-User": "admin"}, method, right), None, method)
    told = None if rule is Rule.ANYONE else (401, "unauthorized")
    judge(await called(app.url, {"X-User": "admin"}, method, wrong), told, method)


@pytest.mark.parametrize(("method", "path", "rule"), RULES)
async def test_a_key_in_the_address_is_refused_where_it_is_not_allowed(
    closed: Server, method: str, path: str, rule: Rule
) -> None:
    target = f"{somewhere(path)}?api_key={API_KEY}"
    told = None if rule is Rule.ANYONE else (401, "unauthorized")
    judge(await called(closed.url, {"X-User": "admin"}, method, target), told, method)
    judge(await called(closed.url, ADMIN, method, target), None, method)


async def test_the_scrapers_token_opens_nothing_where_none_is_set(closed: Server) -> None:
    for token in ("", "None", METRICS_TOKEN):
        answer = await called(closed.url, {"Authorization": f"Bearer {token}"}, "GET", "/metrics")
        refused(answer, 401, "unauthorized")


@pytest.mark.parametrize("path", ["/", "/nowhere", "/sessions/", "/auth", "/sessions/1/2/3/4"])
async def test_an_address_that_leads_nowhere_says_so_only_to_those_with_the_key(
    app: App, path: str
) -> None:
    refused(await called(app.url, {}, "GET", path), 401, "unauthorized")
    refused(await called(app.url, KEY, "GET", path), 404, "not_found")
    refused(await called(app.url, ADMIN, "POST", path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/sessions", "GET, HEAD, POST"),
        ("OPTIONS", "/sessions", "GET, HEAD, POST"),
        ("PATCH", "/sessions/{id}", "DELETE, GET, HEAD"),
        ("GET", "/sessions/{id}/query", "POST"),
        ("POST", "/healthz", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones_once_the_caller_is_known(
    app: App, method: str, path: str, allowed: str
) -> None:
    refused(await called(app.url, {}, method, somewhere(path)), 401, "unauthorized")
    answer = await called(app.url, KEY, method, somewhere(path))
    refused(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == allowed


async def test_a_user_who_is_disabled_may_do_nothing_a_second_later(app: App) -> None:
    name = "dismissed"
    await app.users.add(name)
    headers = {**KEY, "X-User": name}
    assert (await called(app.url, headers, "GET", "/sessions")).status == 200
    await disable(app, name)
    await asyncio.sleep(1)
    refused(await called(app.url, headers, "GET", "/sessions"), 403, "forbidden")


async def test_a_user_who_was_just_added_may_act_at_once(app: App) -> None:
    headers = {**KEY, "X-User": "newcomer"}
    refused(await called(app.url, headers, "GET", "/sessions"), 404, "not_found")
    async with Http(app.url, KEY) as http:
        assert (await http("POST", "/auth/users", json={"username": "newcomer"})).status == 201
    assert (await called(app.url, headers, "GET", "/sessions")).status == 200
