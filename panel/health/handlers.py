"""Is it alive, is it ready, and how is it doing."""

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

from panel.middleware import json_response

Check = Callable[[], Awaitable[dict[str, Any]]]


class HealthHandlers:
    def __init__(
        self, health: Check, is_ready: Callable[[], bool], registry: CollectorRegistry
    ) -> None:
        self._health = health
        self._is_ready = is_ready
        self._registry = registry

    async def healthz(self, request: web.Request) -> web.Response:
        health = await self._health()
        return json_response(health, 200 if health["ok"] else 503)

    async def readyz(self, request: web.Request) -> web.Response:
        ready = self._is_ready() and (await self._health())["ok"]
        return json_response({"ready": ready}, 200 if ready else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(self._registry),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )
