"""Requests as any program may send them, and answers as they came, refusals too."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import aiohttp

from main import App
from tests.e2e.inside import hosting
from tests.e2e.server import API_KEY
from tests.fakes.model import FakeModel

# For what needs no turn: it has a version, and no session of it ever begins.
VERSION_ONLY = "#!/bin/sh\necho '1.0.0 (Claude Code)'\n"
ADMIN = {"X-API-Key": API_KEY, "X-User": "admin"}


def without_turns(folder: Path) -> dict[str, str]:
    """Settings of a server whose CLI is next to nothing."""
    cli = folder / "claude"
    cli.write_text(VERSION_ONLY)
    cli.chmod(0o755)
    return {"CLAUDE_BIN": str(cli), "ISOLATION": "none"}


@asynccontextmanager
async def quiet(folder: Path, **settings: str) -> AsyncIterator[App]:
    everything = {**without_turns(folder), **settings}
    async with hosting(folder / "data", FakeModel(), None, **everything) as app:
        yield app


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Http:
    def __init__(self, url: str, headers: Mapping[str, str] = ADMIN) -> None:
        self.url = url
        self._headers = headers
        self._client: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._client = aiohttp.ClientSession(self.url, headers=self._headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def __call__(self, method: str, path: str, **options: Any) -> Answer:
        async with self._client.request(method, path, **options) as response:
            return Answer(response.status, response.headers, await response.read())


def refused(answer: Answer, status: int, code: str) -> str:
    """The one form that every error has; what it says."""
    assert answer.status == status, answer
    assert answer.headers["Content-Type"].startswith("application/json")
    assert set(answer.json) == {"error", "message"}
    assert answer.json["error"] == code
    message: str = answer.json["message"]
    assert message.endswith("."), message
    assert "\n" not in message
    return message


class Line:
    """A connection on which anything may be said."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def hear(self) -> Answer:
        """One answer with a length; its body is read when it has one."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode().strip().split("\r\n")
        headers = {name.title(): value for name, value in (line.split(": ") for line in lines)}
        body = await self.reader.readexactly(int(headers.get("Content-Length", 0)))
        return Answer(int(first.split()[1]), headers, body)


@asynccontextmanager
async def line(url: str) -> AsyncIterator[Line]:
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        yield Line(reader, writer)
    finally:
        writer.close()


async def said(url: str, data: bytes) -> Answer:
    async with line(url) as wire:
        await wire.say(data)
        async with asyncio.timeout(10):
            return await wire.hear()


def head(method: str, target: str, **headers: str) -> bytes:
    """A request's first line and headers, put down as they are."""
    given = {"Host": "localhost", **ADMIN, **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in given.items()]
    return "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]).encode()
