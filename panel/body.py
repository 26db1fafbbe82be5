"""Request bodies: bounded, JSON, and of the right types, or one clear sentence."""

from typing import Any

import orjson
from aiohttp import web

from errors import bad_request, invalid, too_large

MIB = 1024 * 1024
USUAL = 1 * MIB


async def read_json(request: web.Request, limit: int = USUAL) -> "Body":
    raw = await _read(request, limit)
    try:
        data = orjson.loads(raw) if raw.strip() else {}
    except orjson.JSONDecodeError:
        raise bad_request("The body must be JSON.") from None
    if not isinstance(data, dict):
        raise bad_request("The body must be a JSON object.")
    return Body(data)


async def _read(request: web.Request, limit: int) -> bytes:
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    raw = bytearray()
    try:
        async for chunk in request.content.iter_any():
            raw += chunk
            if len(raw) > limit:
                raise _too_large(limit)
    except web.RequestPayloadError:
        raise bad_request("The body is not coded as its headers say.") from None
    return bytes(raw)


def _too_large(limit: int) -> Exception:
    return too_large(f"The body is too large; at most {limit // MIB} MiB are taken here.")


class Body:
    """A JSON object whose fields are asked for by type."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data

    def text(self, name: str, *, most: int | None = None) -> str | None:
        value = self._data.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise invalid(f"{name} must be a string.")
        if "\0" in value:
            raise invalid(f"{name} may not contain a NUL character.")
        if most is not None and len(value) > most:
            raise invalid(f"{name} may have at most {most} characters.")
        return value

    def needed(self, name: str, *, most: int | None = None) -> str:
        value = self.text(name, most=most)
        if value is None or not value.strip():
            raise invalid(f"{name} is needed, and may not be empty.")
        return value

    def flag(self, name: str) -> bool:
        value = self._data.get(name)
        if value is not None and not isinstance(value, bool):
            raise invalid(f"{name} must be true or false.")
        return bool(value)

    def whole(self, name: str, least: int, most: int) -> int | None:
        value = self._data.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise invalid(f"{name} must be a whole number from {least} to {most}.")
        return value

    def texts(self, name: str) -> list[str]:
        value = self._data.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise invalid(f"{name} must be a list of strings.")
        return value
