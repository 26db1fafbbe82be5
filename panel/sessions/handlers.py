"""The `/sessions` routes: parse, call the engine, answer."""

from collections.abc import AsyncIterator, Callable

import orjson
from aiohttp import web

from panel.body import MIB, read_json
from panel.caller import person
from panel.middleware import json_bytes, json_response
from panel.sessions import fields
from panel.shared import Shared
from panel.streams import ndjson
from sessions import providers
from sessions.engine import Engine
from sessions.store import Page
from sessions.workspace import Owner, Workspaces

QUERY_LIMIT = 32 * MIB
PageOf = tuple[Owner, int, Page | None]


class SessionHandlers:
    def __init__(
        self, engine: Engine, workspaces: Workspaces, default_model: str, default_mode: str
    ) -> None:
        self._engine = engine
        self._workspaces = workspaces
        self._default_model = default_model
        self._default_mode = default_mode
        self._pages: Shared[PageOf, bytes] = Shared(self._page)

    async def create(self, request: web.Request) -> web.Response:
        owner, body = fields.owner(person(request)), await read_json(request)
        self._workspaces.prepare(owner)
        session = await self._engine.create(
            owner,
            cwd=str(self._workspaces.folder(owner, body.text("cwd", most=4096))),
            title=(body.text("title", most=200) or "").strip(),
            model=providers.checked(body.text("model") or self._default_model),
            permission_mode=fields.permission_mode(body) or self._default_mode,
            system_prompt=body.text("system_prompt", most=1_000_000) or "",
            allowed_tools=fields.allowed_tools(body),
            max_turns=body.whole("max_turns", 1, 10_000),
        )
        return json_response(session, 201)

    async def list(self, request: web.Request) -> web.Response:
        limit, after = fields.number(request, "limit", 50, 1, 200), fields.page(request)
        page = await self._pages.ask((fields.owner(person(request)), limit, after))
        return json_bytes(page)

    async def show(self, request: web.Request) -> web.Response:
        return json_response(await self._engine.find(*fields.session(request)))

    async def delete(self, request: web.Request) -> web.Response:
        await self._engine.delete(*fields.session(request))
        return web.Response(status=204)

    async def query(self, request: web.Request) -> web.StreamResponse:
        owner, session_id = fields.session(request)
        body = await read_json(request, QUERY_LIMIT)
        prompt, uuid, fresh = fields.prompt(body), fields.turn_uuid(body), body.flag("fresh")

        async def stream(on_drop: Callable[[], None]) -> AsyncIterator[bytes]:
            return await self._engine.query(
                owner, session_id, prompt, uuid, "api", fresh=fresh, on_drop=on_drop
            )

        return await ndjson(request, stream)

    async def events(self, request: web.Request) -> web.StreamResponse:
        owner, session_id = fields.session(request)
        after = fields.number(request, "after", 0, 0, 2**53)
        follow = fields.number(request, "follow", 0, 0, 1) == 1 and request.method != "HEAD"

        async def stream(on_drop: Callable[[], None]) -> AsyncIterator[bytes]:
            return await self._engine.events(
                owner, session_id, after, follow=follow, on_drop=on_drop
            )

        return await ndjson(request, stream)

    async def interrupt(self, request: web.Request) -> web.Response:
        stopped = await self._engine.interrupt(*fields.session(request))
        return json_response({"interrupted": stopped})

    async def take_back(self, request: web.Request) -> web.Response:
        uuid = request.match_info["uuid"].lower()
        await self._engine.take_back(*fields.session(request), uuid)
        return web.Response(status=204)

    async def answer(self, request: web.Request) -> web.Response:
        owner, session_id = fields.session(request)
        body = await read_json(request)
        decision, ask_id = fields.decision(body), body.needed("ask_id")
        message = body.text("message", most=10_000) or ""
        await self._engine.answer(owner, session_id, ask_id, decision, message)
        return json_response({"ask_id": ask_id, "decision": decision})

    async def _page(self, page: PageOf) -> bytes:
        sessions, last = await self._engine.list(*page)
        return orjson.dumps({"sessions": sessions, "next": fields.cursor(last)})
