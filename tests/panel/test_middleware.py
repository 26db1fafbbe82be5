"""Around every request: deny by default, errors in words, nothing secret in the log."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from errors import too_many, unavailable
from panel.caller import Doorkeeper, Rule
from panel.middleware import deny_by_default, errors_in_words
from panel.routes import Route, install
from tests.e2e.plain import Answer, refused

KEY = "a-key-that-only-the-owner-knows"
Client = TestClient[web.Request, web.Application]


async def hello(_: web.Request) -> web.Response:
    return web.Response(text="hello")


async def broken(_: web.Request) -> web.Response:
    raise RuntimeError("the cellar is flooded")


async def broken_pipe(_: web.Request) -> web.Response:
    raise ConnectionResetError("a process of ours went away")


async def busy(_: web.Request) -> web.Response:
    raise too_many("There is too much to do.", 7)


async def away(_: web.Request) -> web.Response:
    raise unavailable("The database is out for lunch.")


TABLE: list[Route] = [
    ("GET", "/hello", hello, Rule.ADMIN),
    ("GET", "/broken", broken, Rule.ANYONE),
    ("GET", "/pipe", broken_pipe, Rule.ANYONE),
    ("GET", "/busy", busy, Rule.ANYONE),
    ("GET", "/away", away, Rule.ANYONE),
]


@asynccontextmanager
async def serving(table: list[Route], *, forgotten: str = "") -> AsyncIterator[Client]:
    users: Any = None  # no route here asks for one
    doorkeeper = Doorkeeper(users, KEY, "", allow_query_key=True)
    app = web.Application(middlewares=[errors_in_words, deny_by_default(doorkeeper)])
    install(app, table)
    if forgotten:
        app.router.add_get(forgotten, hello)
    async with TestClient(TestServer(app)) as client:
        yield client


async def get(client: Client, path: str, **headers: str) -> Answer:
    async with client.get(path, headers=headers) as response:
        return Answer(response.status, response.headers, await response.read())


async def test_a_route_that_was_added_without_a_rule_is_refused_to_everybody() -> None:
    async with serving(TABLE, forgotten="/forgotten") as client:
        refused(await get(client, "/forgotten"), 403, "forbidden")
        refused(await get(client, "/forgotten", **{"X-API-Key": KEY}), 403, "forbidden")
        assert (await get(client, "/hello", **{"X-API-Key": KEY})).body == b"hello"


@pytest.mark.parametrize("path", ["/broken", "/pipe"])
async def test_a_handler_that_breaks_tells_the_log_and_not_the_caller(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(TABLE) as client:
        answer = await get(client, f"{path}?api_key=a-secret")
    refused(answer, 500, "internal")
    assert b"Error" not in answer.body
    assert b"cellar" not in answer.body
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info
    assert record.getMessage().endswith(f"GET {path}")
    assert "a-secret" not in caplog.text


async def test_an_error_has_the_status_of_its_code() -> None:
    async with serving(TABLE) as client:
        busy, away = await get(client, "/busy"), await get(client, "/away")
    assert refused(busy, 429, "too_many") == "There is too much to do."
    assert busy.headers["Retry-After"] == "7"
    refused(away, 503, "unavailable")
    assert "Retry-After" not in away.headers


async def test_a_request_is_one_line_of_the_log_whatever_its_path_says(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG, "panel"):
        async with serving(TABLE) as client:
            await get(client, "/hello%0a2030-01-01 INFO forged?api_key=a-secret")
    (line,) = [record.getMessage() for record in caplog.records if "forged" in record.getMessage()]
    assert "\n" not in line
    assert "a-secret" not in line
