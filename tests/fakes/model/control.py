"""The same controls over HTTP, for a fake model that runs as a program of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from aiohttp import web

from .replies import from_json

if TYPE_CHECKING:
    from .requests import Request
    from .server import FakeModel


# aiohttp names headers by a subclass of str, which orjson takes only when told to.
HEADERS = orjson.OPT_NON_STR_KEYS


class Control:
    def __init__(self, model: FakeModel) -> None:
        self._model = model

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/control/script", self._script),
            web.put("/control/default", self._default),
            web.post("/control/release", self._release),
            web.post("/control/reset", self._reset),
            web.get("/control/requests", self._requests),
        ]

    async def _script(self, http: web.Request) -> web.Response:
        self._model.script.load(orjson.loads(await http.read()))
        return web.json_response({"left": self._model.script.left})

    async def _default(self, http: web.Request) -> web.Response:
        self._model.script.default = from_json(orjson.loads(await http.read()))
        return web.Response(status=204)

    async def _release(self, http: web.Request) -> web.Response:
        self._model.release(http.query.get("gate", ""))
        return web.Response(status=204)

    async def _reset(self, _: web.Request) -> web.Response:
        self._model.reset()
        return web.Response(status=204)

    async def _requests(self, _: web.Request) -> web.Response:
        seen = {
            "received": self._model.received,
            "requests": [_shown(r) for r in self._model.requests],
            "side_requests": [_shown(r) for r in self._model.side_requests],
        }
        return web.Response(
            body=orjson.dumps(seen, option=HEADERS), content_type="application/json"
        )


def _shown(request: Request) -> dict[str, object]:
    return {"headers": dict(request.headers), "body": request.body}
