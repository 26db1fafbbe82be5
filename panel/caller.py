"""Who calls: decided once, by the middleware, before any handler."""

import hashlib
import hmac
from dataclasses import dataclass
from enum import Enum

from aiohttp import web

from accounts.users import Person, Users
from errors import bad_request, forbidden, unauthorized


class Rule(Enum):
    """What a route asks of its caller. A route without a rule is refused."""

    ANYONE = "anyone"
    USER = "user"
    ADMIN = "admin"
    SCRAPER = "scraper"


@dataclass(frozen=True, slots=True)
class Caller:
    person: Person | None
    is_admin: bool


ANONYMOUS = Caller(None, is_admin=False)
CALLER = web.RequestKey("caller", Caller)


class Doorkeeper:
    def __init__(
        self, users: Users, api_key: str, metrics_token: str, *, allow_query_key: bool
    ) -> None:
        self._users = users
        self._api_key = _digest(api_key)
        self._metrics_token = _digest(metrics_token) if metrics_token else None
        self._allow_query_key = allow_query_key

    async def admit(self, request: web.Request, rule: Rule) -> Caller:
        if rule is Rule.ANYONE:
            return ANONYMOUS
        if rule is Rule.SCRAPER and self._is_scraper(request):
            return ANONYMOUS
        if not self._has_key(request):
            raise unauthorized("Send the API key in the X-API-Key header.")
        return await self._with_key(request, rule)

    async def _with_key(self, request: web.Request, rule: Rule) -> Caller:
        name = request.headers.get("X-User")
        if rule is not Rule.USER:
            return Caller(None, is_admin=True)
        if not name:
            raise bad_request("Name the user that you act for in the X-User header.")
        return Caller(await self._users.named(name), is_admin=True)

    def _has_key(self, request: web.Request) -> bool:
        given = request.headers.get("X-API-Key")
        if given is None and "api_key" in request.query:
            if not self._allow_query_key:
                raise unauthorized("This server takes no key in the address; use X-API-Key.")
            given = request.query["api_key"]
        return given is not None and hmac.compare_digest(_digest(given), self._api_key)

    def _is_scraper(self, request: web.Request) -> bool:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if self._metrics_token is None or scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(_digest(token.strip()), self._metrics_token)


def person(request: web.Request) -> Person:
    caller = request[CALLER]
    if caller.person is None:
        raise forbidden("This is for a user.")
    return caller.person


def _digest(text: str) -> bytes:
    """Of equal length whatever was given, so that comparing tells nothing."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()
