"""The HTTP side: one aiohttp application and the socket that it listens on."""

import asyncio

from aiohttp import web

from errors import unavailable
from panel.caller import Doorkeeper
from panel.middleware import deny_by_default, errors_in_words
from panel.routes import Route, install
from panel.wire import Wire

CLOSE_SECONDS = 2.0
# So long is a body that was refused still read and thrown away: a client that is cut off
# while it sends never reads why.
LINGER_SECONDS = 1.0


class Panel:
    def __init__(self, doorkeeper: Doorkeeper, table: list[Route]) -> None:
        app = web.Application(middlewares=[errors_in_words, deny_by_default(doorkeeper)])
        install(app, table)
        # A turn goes on when its client has gone, so handlers are not cancelled with it.
        self._runner = web.AppRunner(app, shutdown_timeout=CLOSE_SECONDS)
        self._listening: asyncio.Server | None = None
        self.port = 0

    async def listen(self, host: str, port: int) -> None:
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        try:
            self._listening = await loop.create_server(self._wire, host, port, backlog=1024)
        except OSError as error:
            raise unavailable(
                f"HOST {host} with PORT {port} can't be listened on: {error.strerror}."
            ) from error
        self.port = self._listening.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._listening:
            self._listening.close()
        await asyncio.shield(self._runner.cleanup())

    def _wire(self) -> Wire:
        assert self._runner.server, "it is set up before anything listens"
        return Wire(
            self._runner.server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type] # its lines would show query strings
            lingering_time=LINGER_SECONDS,
        )
