"""The least that aiohttp can do: one route, the JSON that was given, no more."""

import asyncio
import json
import sys

import orjson
from aiohttp import web


async def serve(answer: object) -> None:
    async def sessions(_: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(answer), content_type="application/json")

    app = web.Application()
    app.router.add_get("/sessions", sessions)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1])))
