"""The server: one handler that plays replies, a few that answer the CLI's other questions."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterator
from itertools import count
from types import TracebackType
from typing import Any, Self

import orjson
from aiohttp import web

from . import sse
from .control import Control
from .replies import ERROR_TYPES, Fail, Reply, Say, Stop
from .requests import Request
from .script import Script, side_reply

KEPT = 100
MAX_BODY = 256 * 1024 * 1024
LINGER = 0.05
STREAM = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}


class FakeModel:
    def __init__(self, default: Reply | None = None) -> None:
        self.script = Script(default)
        self.requests: deque[Request] = deque(maxlen=KEPT)
        self.side_requests: deque[Request] = deque(maxlen=KEPT)
        self.received = 0
        self.url = ""
        self._arrived = asyncio.Condition()
        self._gates: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(0))
        self._numbers = count(1)
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self, port: int = 0) -> None:
        # A client that leaves ends its handler, so that no dead stream takes a release().
        self._runner = web.AppRunner(
            self._app(), handler_cancellation=True, shutdown_timeout=0.1, access_log=None
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        host, bound = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{bound}"

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    def add(self, *replies: Reply) -> None:
        """Replies for the conversation's next requests, in order."""
        self.script.add(*replies)

    def on(self, substring: str, *replies: Reply) -> None:
        """Replies, in order, for requests whose last user text contains the substring."""
        self.script.on(substring, *replies)

    def release(self, gate: str = "") -> None:
        """Lets one held reply go on; it may come before the reply has reached its hold."""
        self._gates[gate].release()

    async def wait_for_request(self, n: int = 1) -> Request:
        """Waits until n conversation requests have come in all; the latest one."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: self.received >= n)
        return self.requests[-1]

    def reset(self) -> None:
        self.script.clear()
        self.script.default = None
        self.requests.clear()
        self.side_requests.clear()
        self._gates.clear()
        self.received = 0

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_post("/v1/messages", self._messages)
        app.router.add_post("/v1/messages/count_tokens", _count_tokens)
        app.router.add_get("/v1/models", _models)
        app.router.add_get("/api/hello", _hello)
        app.router.add_routes(Control(self).routes())
        app.router.add_route("*", "/{rest:.*}", _unknown)
        return app

    async def _messages(self, http: web.Request) -> web.StreamResponse:
        request = Request(orjson.loads(await http.read()), http.headers.copy())
        if request.is_side:
            self.side_requests.append(request)
            return await self._answer(http, request, side_reply(request))
        reply = self.script.reply(request)
        await self._note(request)
        return await self._answer(http, request, reply)

    async def _note(self, request: Request) -> None:
        self.requests.append(request)
        self.received += 1
        async with self._arrived:
            self._arrived.notify_all()

    async def _answer(
        self, http: web.Request, request: Request, reply: Reply
    ) -> web.StreamResponse:
        if isinstance(reply, Fail):
            return _failure(reply)
        if request.stream:
            return await self._stream(http, request, reply)
        if reply.stop:
            await self._pause(http, reply.stop)
        body = sse.whole(reply, request.model, next(self._numbers))
        return web.Response(body=body, content_type="application/json")

    async def _stream(self, http: web.Request, request: Request, say: Say) -> web.StreamResponse:
        frames = sse.frames(say, request.model, next(self._numbers))
        if not say.delay and not say.stop:
            return web.Response(body=b"".join(f.data for f in frames), headers=STREAM)
        response = web.StreamResponse(headers=STREAM)
        await self._play(http, response, list(frames), say)
        return response

    async def _play(
        self, http: web.Request, response: web.StreamResponse, frames: list[sse.Frame], say: Say
    ) -> None:
        stops = _stops(say.stop, frames)
        for frame, stop in zip(frames, stops, strict=True):
            if stop:
                await self._pause(http, stop)
            if not response.prepared:
                await response.prepare(http)
            if frame.is_delta and say.delay:
                await asyncio.sleep(say.delay)
            await response.write(frame.data)

    async def _pause(self, http: web.Request, stop: Stop) -> None:
        match stop.how:
            case "hold":
                await self._gates[stop.gate].acquire()
                return
            case "cut" if http.transport:
                # A client that finds the end behind unread deltas may throw them away.
                await asyncio.sleep(LINGER if stop.after else 0)
                http.transport.close()
        # Whoever hangs, or has just been cut off, is cancelled when its connection is gone.
        await asyncio.Event().wait()


def _stops(stop: Stop | None, frames: list[sse.Frame]) -> Iterator[Stop | None]:
    """For each frame, the stop to make before it: at most one of them has it."""
    after = min(stop.after, sum(f.is_delta for f in frames)) if stop else -1
    sent, made = 0, False
    for frame in frames:
        due = sent == after and not made
        made = made or due
        yield stop if due else None
        sent += frame.is_delta


def _failure(fail: Fail) -> web.Response:
    body = sse.error(ERROR_TYPES.get(fail.status, "api_error"), fail.message)
    response = web.Response(status=fail.status, body=body, content_type="application/json")
    response.headers.extend(fail.headers)
    return response


async def _count_tokens(http: web.Request) -> web.Response:
    return web.json_response({"input_tokens": len(await http.read()) // 4})


async def _models(_: web.Request) -> web.Response:
    model: dict[str, Any] = {"type": "model", "id": "claude-fake", "display_name": "Fake"}
    return web.json_response({"data": [model], "has_more": False})


async def _hello(_: web.Request) -> web.Response:
    return web.json_response({"message": "hello"})


async def _unknown(http: web.Request) -> web.Response:
    return _failure(Fail(404, f"No such address: {http.path}"))
