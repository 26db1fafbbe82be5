"""A client of the HTTP API, as a user's own program would be one."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

import aiohttp

Event = dict[str, Any]


class Refused(Exception):
    """The server said no."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(f"{status} {body}")
        self.status = status
        self.code = body.get("error")
        self.message = body.get("message", "")


class Stream:
    """An open NDJSON answer, read event by event."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.seen: list[Event] = []

    async def __aiter__(self) -> AsyncIterator[Event]:
        async for line in self.response.content:
            event = json.loads(line)
            self.seen.append(event)
            yield event

    async def until(self, kind: str, **fields: Any) -> Event:
        """The next event of this type with these fields."""
        async for event in self:
            if event["type"] == kind and fields.items() <= event.items():
                return event
        raise AssertionError(f"no {kind} {fields} came: {self.seen[-5:]}")

    async def rest(self) -> list[Event]:
        async for _ in self:
            pass
        return self.seen

    def hang_up(self) -> None:
        self.response.close()


class Api:
    def __init__(self, url: str, key: str, user: str = "admin") -> None:
        self.url = url
        self.user = user
        self._key = key
        self._http: aiohttp.ClientSession
        self._streams: list[Stream] = []

    async def __aenter__(self) -> Self:
        # Lines may be long: a result repeats the whole answer.
        self._http = aiohttp.ClientSession(
            self.url,
            headers={"X-API-Key": self._key, "X-User": self.user},
            read_bufsize=64 * 1024 * 1024,
            timeout=aiohttp.ClientTimeout(total=None, sock_read=60),
            connector=aiohttp.TCPConnector(limit=0),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for stream in self._streams:
            stream.hang_up()
        await self._http.close()

    async def request(self, method: str, path: str, **options: Any) -> Any:
        async with self._http.request(method, path, **options) as response:
            await _checked(response)
            return await response.json() if response.status != 204 else None

    async def create(self, **fields: Any) -> dict[str, Any]:
        session: dict[str, Any] = await self.request("POST", "/sessions", json=fields)
        return session

    async def session(self, session_id: str) -> dict[str, Any]:
        session: dict[str, Any] = await self.request("GET", f"/sessions/{session_id}")
        return session

    async def delete(self, session_id: str) -> None:
        await self.request("DELETE", f"/sessions/{session_id}")

    async def query(self, session_id: str, prompt: str, **fields: Any) -> Stream:
        """The prompt is accepted when this returns."""
        body = {"prompt": prompt, **fields}
        return await self._stream("POST", f"/sessions/{session_id}/query", json=body)

    async def ask(self, session_id: str, prompt: str, **fields: Any) -> list[Event]:
        """All events of one turn."""
        return await (await self.query(session_id, prompt, **fields)).rest()

    async def follow(self, session_id: str, after: int = 0) -> Stream:
        path = f"/sessions/{session_id}/events"
        return await self._stream("GET", path, params={"after": after, "follow": 1})

    async def events(self, session_id: str, after: int = 0) -> list[Event]:
        path = f"/sessions/{session_id}/events"
        return await (await self._stream("GET", path, params={"after": after})).rest()

    async def interrupt(self, session_id: str) -> bool:
        answer = await self.request("POST", f"/sessions/{session_id}/interrupt")
        return bool(answer["interrupted"])

    async def take_back(self, session_id: str, uuid: str) -> None:
        await self.request("DELETE", f"/sessions/{session_id}/queue/{uuid}")

    async def answer(self, session_id: str, ask_id: str, decision: str) -> None:
        body = {"ask_id": ask_id, "decision": decision}
        await self.request("POST", f"/sessions/{session_id}/answers", json=body)

    async def until_state(self, session_id: str, state: str) -> None:
        """The list tells a state, and no event does: ask until it is so."""
        async with asyncio.timeout(20):
            while (await self.session(session_id))["state"] != state:
                await asyncio.sleep(0.02)

    async def _stream(self, method: str, path: str, **options: Any) -> Stream:
        response = await self._http.request(method, path, **options)
        await _checked(response)
        self._streams.append(Stream(response))
        return self._streams[-1]


async def _checked(response: aiohttp.ClientResponse) -> None:
    if response.status >= 400:
        raise Refused(response.status, await response.json())


def new_uuid() -> str:
    return str(uuid.uuid4())


def last(events: list[Event]) -> Event:
    """A turn's end: exactly one `done`, and nothing after it."""
    assert [event["type"] for event in events].count("done") == 1, events
    assert events[-1]["type"] == "done", events
    return events[-1]


def text_of(events: list[Event], kind: str = "text") -> str:
    """What a reader shows: each piece written at its offset, withdrawn blocks left out."""
    blocks: dict[int, str] = {}
    for event in events:
        for block in event.get("void_blocks", []):
            blocks.pop(block, None)
        if event["type"] == kind:
            before = blocks.get(event["block"], "")[: event["offset"]]
            assert len(before) == event["offset"], f"a hole in the text before {event}"
            kept = blocks.get(event["block"], "")[event["offset"] + len(event["text"]) :]
            blocks[event["block"]] = before + event["text"] + kept
    return "".join(blocks[block] for block in sorted(blocks))
