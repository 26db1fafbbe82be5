"""The `/auth/users` routes."""

from typing import Any

from aiohttp import web

from accounts.users import Person, Users
from config import SHORTEST_PASSWORD
from errors import invalid
from panel.body import read_json
from panel.middleware import json_response


class UserHandlers:
    def __init__(self, users: Users) -> None:
        self._users = users

    async def list(self, request: web.Request) -> web.Response:
        people = await self._users.list()
        return json_response({"users": [_described(one) for one in people], "next": None})

    async def create(self, request: web.Request) -> web.Response:
        body = await read_json(request)
        password = body.text("password", most=1024) or ""
        if password and len(password) < SHORTEST_PASSWORD:
            raise invalid(f"password must have at least {SHORTEST_PASSWORD} characters.")
        username, is_admin = body.needed("username"), body.flag("is_admin")
        created = await self._users.add(username, password=password, is_admin=is_admin)
        return json_response(_described(created), 201)


def _described(someone: Person) -> dict[str, Any]:
    return {
        "username": someone.username,
        "is_admin": someone.is_admin,
        "disabled": someone.disabled,
        "totp_enabled": False,
    }
