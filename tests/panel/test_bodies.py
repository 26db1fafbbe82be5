"""A body that is wrong or too large is told in one sentence, with the right status."""

import asyncio
import gzip
import io
import json
import zlib
from typing import Any

import pytest

from main import App
from tests.e2e.plain import Http, Line, head, line, refused, said

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1024 * 1024

NO_OBJECTS = [b"[]", b"null", b"3", b'"text"', b"true"]
NO_JSON = [
    b"{",
    b"{'title': 1}",
    b'{"title": "\xff"}',
    b'{"title": "\\ud800"}',
    b'{"title": "a" "b"}',
    b'{"max_turns": NaN}',
    b"[" * 100_000,
    '{"title": "wide"}'.encode("utf-16"),
    b"title=form",
]


@pytest.mark.parametrize("body", NO_JSON, ids=range(len(NO_JSON)))
async def test_a_body_that_is_no_json_is_a_bad_request(http: Http, body: bytes) -> None:
    message = refused(await http("POST", "/sessions", data=body), 400, "bad_request")
    assert message == "The body must be JSON."


@pytest.mark.parametrize("body", NO_OBJECTS, ids=str)
async def test_json_that_is_no_object_is_a_bad_request(http: Http, body: bytes) -> None:
    refused(await http("POST", "/sessions", data=body), 400, "bad_request")


INVALID_SESSIONS: dict[str, list[Any]] = {
    "title": [1, [], {}, True, "x" * 201, "a\0b"],
    "cwd": [1, ["/"], "a\0b", "x" * 4097],
    "system_prompt": [1, ["be", "kind"], "a\0b", "x" * 1_000_001],
    "model": [1, "two words", "--help", "-p", "x" * 129, "a\nb", "modèle", "a\0b", " sonnet"],
    "permission_mode": ["", "Default", "yolo", 1, "--permission-mode", "default "],
    "max_turns": [0, -1, 10_001, 1.5, 1e3, "3", True, [1], 2**70],
    "allowed_tools": [
        "Read",
        {"Read": True},
        [1],
        [None],
        [[]],
        [""],
        [" "],
        ["a\0b"],
        ["--dangerously-skip-permissions"],
        ["-p"],
        ["Read,Write"],
        ["Read Write"],
        ["Bash(ls:*),Write"],
        ["Bash(echo (a),Write,x)"],
        ["Bash(echo (a) Write x)"],
        ["Bash(a", "Write", "b)"],
        ["Bash)"],
        ["Bash()"],
        ["Bash(a\nb)"],
        ["Read"] * 201,
        ["Bash(" + "é" * 400 + ")"] * 100,
    ],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in INVALID_SESSIONS.items() for value in values],
    ids=lambda given: str(given)[:30],
)
async def test_a_session_with_a_wrong_field_is_not_made(
    http: Http, name: str, value: object
) -> None:
    message = refused(await http("POST", "/sessions", json={name: value}), 422, "invalid")
    assert name in message or name == "model"
    assert len(message) < 300


VALID_SESSIONS: list[dict[str, Any]] = [
    {},
    {"title": None, "cwd": None, "model": None, "max_turns": None, "allowed_tools": None},
    {"title": "Zażółć 漢字 🙂", "unknown_field": 1},
    {"model": "claude-opus-4-5[1m]"},
    {"model": "glm-5.1:cloud"},
    {"permission_mode": "plan", "max_turns": 1},
    {"max_turns": 10_000},
    {"allowed_tools": ["Read", "Bash(ls:*)", "Bash(git commit -m a,b)", "mcp__github__*"]},
    {"allowed_tools": ["WebFetch(domain:example.org)", "Edit(/src/**/*.ts)"]},
]


@pytest.mark.parametrize("fields", VALID_SESSIONS, ids=str)
async def test_a_session_with_right_fields_is_made(http: Http, fields: dict[str, Any]) -> None:
    answer = await http("POST", "/sessions", json=fields)
    assert answer.status == 201, answer
    for name, value in fields.items():
        assert value is None or answer.json.get(name, value) == value


@pytest.mark.parametrize(
    "media", ["text/plain", "application/x-www-form-urlencoded", "application/json", "x/y"]
)
async def test_json_is_taken_whatever_it_is_said_to_be(http: Http, media: str) -> None:
    answer = await http("POST", "/sessions", data=b"{}", headers={"Content-Type": media})
    assert answer.status == 201


async def test_no_body_at_all_is_an_empty_object(http: Http) -> None:
    assert (await http("POST", "/sessions")).status == 201


# Prompts.


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 422),
        ({"prompt": None}, 422),
        ({"prompt": ""}, 422),
        ({"prompt": " \n\t\u3000"}, 422),
        ({"prompt": 1}, 422),
        ({"prompt": ["hello"]}, 422),
        ({"prompt": "a\0b"}, 422),
        ({"prompt": "x" * (8 * MIB + 1)}, 413),
        ({"prompt": "é" * (4 * MIB) + "x"}, 413),
        ({"prompt": "hello", "uuid": "1"}, 422),
        ({"prompt": "hello", "uuid": 1}, 422),
        ({"prompt": "hello", "uuid": "zzzzzzzz-5c0e-4f0e-9a55-6d0a1c6f6a55"}, 422),
        ({"prompt": "hello", "fresh": "yes"}, 422),
        ({"prompt": "hello", "fresh": 1}, 422),
    ],
    ids=lambda given: str(given)[:40],
)
async def test_a_prompt_that_is_none_is_not_accepted(
    http: Http, session: str, fields: dict[str, Any], status: int
) -> None:
    body = io.BytesIO(json.dumps(fields).encode())
    answer = await http("POST", f"/sessions/{session}/query", data=body)
    refused(answer, status, "too_large" if status == 413 else "invalid")
    assert (await http("GET", f"/sessions/{session}/events")).body == b""


# Sizes.

SIZES = [("/sessions", 1), ("/auth/users", 1), ("/sessions/{id}/answers", 1)]
SIZES += [("/sessions/{id}/query", 32)]


@pytest.mark.parametrize(("path", "mib"), SIZES)
async def test_a_body_that_says_it_is_too_large_is_refused_unread(
    app: App, session: str, path: str, mib: int
) -> None:
    path = path.replace("{id}", session)
    opening = head("POST", path, Content_Length=str(mib * MIB + 1))
    refused(await said(app.url, opening), 413, "too_large")


@pytest.mark.parametrize(("path", "mib"), SIZES)
async def test_a_body_that_grows_too_large_is_refused_before_its_end(
    app: App, session: str, path: str, mib: int
) -> None:
    path = path.replace("{id}", session)
    async with line(app.url) as wire, asyncio.timeout(20):
        await wire.say(head("POST", path, Transfer_Encoding="chunked"))
        answered = asyncio.create_task(wire.hear())
        chunk = b"%x\r\n%b\r\n" % (MIB, b" " * MIB)
        sent = 0
        while not answered.done():
            await wire.say(chunk)
            await asyncio.sleep(0)
            sent += 1
        refused(await answered, 413, "too_large")
    assert mib <= sent < mib + 32  # what the system holds between the two is not the server's


async def test_a_client_that_goes_on_sending_what_was_refused_is_cut_off(app: App) -> None:
    async with line(app.url) as wire, asyncio.timeout(20):
        await wire.say(head("POST", "/sessions", Content_Length=str(1024 * MIB * MIB)))
        refused(await wire.hear(), 413, "too_large")
        with pytest.raises(ConnectionError):
            await go_on(wire)


async def go_on(wire: Line) -> None:
    while True:
        await wire.say(b" " * 65536)
        await asyncio.sleep(0.01)


def bomb(size: int) -> bytes:
    """A JSON object of blanks, which is a thousandth of its size when packed."""
    packer = zlib.compressobj(9, wbits=31)
    parts = [packer.compress(b"{")]
    parts += [packer.compress(b" " * MIB) for _ in range(size // MIB)]
    return b"".join([*parts, packer.compress(b"}"), packer.flush()])


@pytest.mark.parametrize(("path", "mib"), SIZES)
async def test_a_packed_body_counts_as_what_it_unpacks_to(
    http: Http, session: str, path: str, mib: int
) -> None:
    headers = {"Content-Encoding": "gzip"}
    address = path.replace("{id}", session)
    fits = await http("POST", address, data=bomb((mib - 1) * MIB), headers=headers)
    assert fits.status in (201, 422), fits
    refused(
        await http("POST", address, data=bomb((mib + 1) * MIB), headers=headers), 413, "too_large"
    )


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", b"this is not gzip at all"),
        ("gzip", gzip.compress(b'{"title": "cut off"}')[:-12]),
        ("deflate", b"\x00\x01\x02\x03"),
        ("br", b"{}"),
    ],
    ids=["no gzip", "half a gzip", "no deflate", "an unknown coding"],
)
async def test_a_body_that_is_not_coded_as_it_says_is_a_bad_request(
    app: App, coding: str, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"Content-Encoding": coding, "Content-Length": str(len(body)), "Connection": "close"}
    opening = head("POST", "/sessions", **headers)
    async with line(app.url) as wire, asyncio.timeout(10):
        await wire.say(opening + body)
        refused(await wire.hear(), 400, "bad_request")
        assert await wire.reader.read() == b""  # hung up
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({}, 422, "invalid"),
        ({"username": ""}, 422, "invalid"),
        ({"username": "Capital"}, 422, "invalid"),
        ({"username": "../admin"}, 422, "invalid"),
        ({"username": "a" * 33}, 422, "invalid"),
        ({"username": "-dash"}, 422, "invalid"),
        ({"username": "admin\n"}, 422, "invalid"),
        ({"username": 1}, 422, "invalid"),
        ({"username": "short", "password": "tooshort"}, 422, "invalid"),
        ({"username": "long", "password": "x" * 1025}, 422, "invalid"),
        ({"username": "wrong", "is_admin": "yes"}, 422, "invalid"),
        ({"username": "admin"}, 409, "conflict"),
    ],
    ids=str,
)
async def test_a_user_with_a_wrong_field_is_not_made(
    http: Http, fields: dict[str, Any], status: int, code: str
) -> None:
    before = (await http("GET", "/auth/users")).json
    refused(await http("POST", "/auth/users", json=fields), status, code)
    assert (await http("GET", "/auth/users")).json == before


async def test_a_new_user_is_shown_without_a_secret(http: Http) -> None:
    fields = {"username": "grace", "password": "a password of some length " * 4, "is_admin": True}
    answer = await http("POST", "/auth/users", json=fields)
    assert answer.status == 201
    assert answer.json == {
        "username": "grace",
        "is_admin": True,
        "disabled": False,
        "totp_enabled": False,
    }
    assert answer.json in (await http("GET", "/auth/users")).json["users"]
