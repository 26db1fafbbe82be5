"""NDJSON answers: they end when all is told, and never look whole when they are not."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from panel.app import Panel
from panel.caller import Doorkeeper, Rule
from panel.streams import ndjson
from tests.e2e.plain import Http

KEY = "a-key-that-only-the-owner-knows"
Lines = Callable[[], AsyncIterator[bytes]]


@asynccontextmanager
async def telling(lines: Lines) -> AsyncIterator[str]:
    """A panel whose only route tells these lines."""

    async def handler(request: web.Request) -> web.StreamResponse:
        async def stream(on_drop: Callable[[], None]) -> AsyncIterator[bytes]:
            return lines()

        return await ndjson(request, stream)

    users: Any = None  # the route asks for none
    doorkeeper = Doorkeeper(users, KEY, "", allow_query_key=True)
    panel = Panel(doorkeeper, [("GET", "/lines", handler, Rule.ANYONE)])
    await panel.listen("127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{panel.port}"
    finally:
        await panel.close()


async def test_a_stream_ends_when_all_is_told() -> None:
    async def lines() -> AsyncIterator[bytes]:
        yield b'{"n":1}\n'
        yield b'{"n":2}\n'

    async with telling(lines) as url, Http(url) as http:
        answer = await http("GET", "/lines")
    assert answer.body == b'{"n":1}\n{"n":2}\n'
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    assert answer.headers["Cache-Control"] == "no-store"


async def test_a_line_is_sent_before_the_next_one_exists() -> None:
    more = asyncio.Event()

    async def lines() -> AsyncIterator[bytes]:
        yield b'{"n":1}\n'
        await more.wait()
        yield b'{"n":2}\n'

    async with (
        telling(lines) as url,
        aiohttp.ClientSession() as client,
        client.get(f"{url}/lines") as response,
    ):
        assert await response.content.readline() == b'{"n":1}\n'
        more.set()
        assert await response.content.readline() == b'{"n":2}\n'
        assert await response.content.readline() == b""


async def test_a_stream_that_breaks_is_cut_off_and_does_not_look_finished(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def lines() -> AsyncIterator[bytes]:
        yield b'{"n":1}\n'
        raise RuntimeError("the source dried up")

    async with telling(lines) as url, Http(url) as http:
        with pytest.raises(aiohttp.ClientError):
            await http("GET", "/lines?api_key=a-secret")
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.getMessage() == "a stream broke: /lines"
    assert "the source dried up" in caplog.text
    assert "a-secret" not in caplog.text


async def test_a_stream_with_nothing_to_tell_ends_soon_after_its_client_has_left() -> None:
    told, ended = asyncio.Event(), asyncio.Event()

    async def lines() -> AsyncIterator[bytes]:
        try:
            yield b'{"n":1}\n'
            told.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with telling(lines) as url, aiohttp.ClientSession() as client:
        response = await client.get(f"{url}/lines")
        await told.wait()
        response.close()
        async with asyncio.timeout(20):
            await ended.wait()


async def test_a_head_request_is_told_that_there_would_be_lines() -> None:
    async def lines() -> AsyncIterator[bytes]:
        yield b'{"n":1}\n'
        await asyncio.Event().wait()

    async with telling(lines) as url, Http(url) as http, asyncio.timeout(10):
        answer = await http("HEAD", "/lines")
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    assert answer.body == b""


async def test_a_client_that_still_listens_does_not_hold_up_the_end_of_the_server() -> None:
    async def lines() -> AsyncIterator[bytes]:
        yield b'{"n":1}\n'
        await asyncio.Event().wait()

    async with asyncio.timeout(20), aiohttp.ClientSession() as client:
        async with telling(lines) as url:
            response = await client.get(f"{url}/lines")
            await response.content.readline()
        with pytest.raises(aiohttp.ClientError):
            await response.read()
