"""Answers that go on for as long as there is something to tell."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

from panel.middleware import has_gone, shown_path

LOOK_SECONDS = 2.0
UNBUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

Stream = Callable[[Callable[[], None]], Awaitable[AsyncIterator[bytes]]]

log = logging.getLogger(__name__)


async def ndjson(request: web.Request, stream: Stream) -> web.StreamResponse:
    """One JSON object a line. What is told of goes on without the client."""
    lines = await stream(lambda: _hang_up(request))
    response = web.StreamResponse(headers=UNBUFFERED)
    response.content_type = "application/x-ndjson"
    sending = asyncio.create_task(_send(request, response, lines))
    try:
        while not sending.done():
            await asyncio.wait([sending], timeout=LOOK_SECONDS)
            # Where nothing is said for long, no write fails either once the client has gone.
            if has_gone(request):
                sending.cancel()
    finally:
        sending.cancel()
    return response


async def _send(
    request: web.Request, response: web.StreamResponse, lines: AsyncIterator[bytes]
) -> None:
    try:
        await response.prepare(request)
        if request.method != "HEAD":
            async for batch in lines:
                await response.write(batch)
        await response.write_eof()
    except ConnectionResetError:
        pass  # the client has gone
    except Exception:
        log.exception("a stream broke: %s", shown_path(request))
        # Cut off, since a regular end would say that this was all.
        _hang_up(request)


def _hang_up(request: web.Request) -> None:
    if request.transport:
        request.transport.abort()
