"""What comes over the connection: no request at all, half a request, one that asks for little."""

import asyncio

import pytest

from main import App
from tests.e2e.api import new_uuid
from tests.e2e.plain import Http, head, line, refused, said
from tests.e2e.server import API_KEY

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNREADABLE = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    "a long address": head("GET", f"/sessions?api_key={API_KEY}&x={'a' * 9000}"),
    "a long header": head("GET", "/sessions", X_Long=API_KEY + "a" * 9000),
    "many headers": head("GET", "/sessions", **{f"X_{n}": API_KEY for n in range(300)}),
    "a header without a colon": head("GET", "/sessions")[:-2] + f"X {API_KEY}\r\n\r\n".encode(),
    "a control character": head("GET", "/sessions", X_Bad=f"{API_KEY}\x01"),
    "a NUL": head("GET", "/sessions", X_Bad=f"{API_KEY}\0"),
    "a negative length": head("POST", "/sessions", Content_Length="-2"),
    "two lengths": head("POST", "/sessions", Content_Length="2", Transfer_Encoding="chunked"),
    "a bad chunk": head("POST", "/sessions", Transfer_Encoding="chunked") + b"zz\r\n{}\r\n",
}


@pytest.mark.parametrize("what", UNREADABLE)
async def test_what_is_no_request_is_refused_and_neither_quoted_nor_traced(
    app: App, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await said(app.url, UNREADABLE[what])
    message = refused(answer, 400, "bad_request")
    assert API_KEY not in message + caplog.text
    assert "Traceback" not in message + caplog.text


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_fault_of_ours(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "panel")
    async with line(app.url) as wire:
        await wire.say(head("POST", "/sessions", Content_Length="200") + b'{"title": ')
    async with asyncio.timeout(10):
        while "POST /sessions 499" not in caplog.text:
            await asyncio.sleep(0.01)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_client_that_speaks_slowly_holds_up_nobody_else(app: App, http: Http) -> None:
    async with line(app.url) as slow:
        await slow.say(b"GET /healthz HTTP/1.1\r\nHost: local")
        for _ in range(5):
            assert (await http("GET", "/healthz")).status == 200
            await slow.say(b"x")
        await slow.say(b"\r\n\r\n")
        assert (await slow.hear()).status == 200


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/auth/users", "/sessions", "/sessions/{id}"]
)
async def test_head_tells_what_get_would_without_the_body(
    http: Http, session: str, path: str
) -> None:
    path = path.replace("{id}", session)
    told, shown = await http("HEAD", path), await http("GET", path)
    assert (told.status, told.body) == (200, b"")
    assert told.headers["Content-Type"] == shown.headers["Content-Type"]
    assert int(told.headers["Content-Length"]) > 0


@pytest.mark.parametrize("query", ["", "?follow=1"])
async def test_head_of_a_stream_does_not_wait_for_its_end(
    http: Http, session: str, query: str
) -> None:
    async with asyncio.timeout(10):
        answer = await http("HEAD", f"/sessions/{session}/events{query}")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Type"] == "application/x-ndjson"


async def test_a_connection_is_used_again_after_an_error(app: App) -> None:
    async with line(app.url) as wire:
        await wire.say(head("GET", f"/sessions/{new_uuid()}"))
        refused(await wire.hear(), 404, "not_found")
        await wire.say(head("GET", "/sessions"))
        assert (await wire.hear()).status == 200
