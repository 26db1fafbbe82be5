"""The people of this server: found, added, and the first of them made."""

import re
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass

from models import User

from peewee import IntegrityError, fn

from accounts import passwords
from accounts.passwords import Hasher
from config import Settings
from db import Database
from errors import conflict, forbidden, invalid, not_found, unavailable

SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
FIRST_UID = 20_000
FRESH_SECONDS = 1.0
TRIES = 10


@dataclass(frozen=True, slots=True)
class Person:
    id: str
    username: str
    role: str
    uid: int
    disabled: bool

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"


class Users:
    def __init__(self, db: Database, hasher: Hasher) -> None:
        self._db = db
        self._hasher = hasher
        # Every request asks for one of a few: each is read anew once a second, so that
        # a user who was disabled, here or by another server, acts no longer than that.
        self._kept: dict[str, tuple[Person, float]] = {}

    async def close(self) -> None:
        self._hasher.close()

    async def named(self, username: str) -> Person:
        """Who acts; an unknown one and a disabled one are refused."""
        now = time.monotonic()
        person, read_at = self._kept.get(username, (None, 0.0))
        if person and now - read_at < FRESH_SECONDS:
            return person
        self._kept.pop(username, None)
        person = await self._read(username)
        self._kept[username] = person, now
        return person

    async def _read(self, username: str) -> Person:
        known = SLUG.fullmatch(username)
        person = await self._db.read(_named, username) if known else None
        if person is None:
            raise not_found(f"There is no user {username!r}.")
        if person.disabled:
            raise forbidden(f"The user {username!r} is disabled.")
        return person

    async def list(self) -> list[Person]:
        return await self._db.read(_all)

    async def add(self, username: str, *, password: str = "", is_admin: bool = False) -> Person:
        if not SLUG.fullmatch(username):
            raise invalid(
                "A username has 1 to 32 of a-z, 0-9, _ and -, and begins with a letter or a digit."
            )
        stored = await self._hasher.hash(password) if password else None
        for _ in range(TRIES):
            with suppress(IntegrityError):
                return await self._db.run(_add, username, "admin" if is_admin else "user", stored)
            # Another server took the name, or only the uid.
            if await self._db.read(_named, username):
                raise conflict(f"There is a user {username!r} already.")
        raise unavailable("Many users are being added at once; try again.")

    async def make_first_admin(self, settings: Settings) -> str | None:
        """Only while there is nobody. A password that was made up is given back, to be shown."""
        if await self._db.read(_anybody):
            return None
        made_up = ""
        stored = settings.web_auth_password_hash
        if not stored:
            made_up = "" if settings.web_auth_password else passwords.made_up()
            stored = await self._hasher.hash(settings.web_auth_password or made_up)
        username = settings.web_auth_username
        if not SLUG.fullmatch(username):
            raise invalid("WEB_AUTH_USERNAME must be 1 to 32 of a-z, 0-9, _ and -.")
        try:
            made = await self._db.run(_add_first, username, stored)
        except IntegrityError:
            made = False  # another start was quicker: the name or the uid is taken
        return (made and made_up) or None


def _named(username: str) -> Person | None:
    row = User.get_or_none(User.username == username)
    return _person(row) if row else None


def _all() -> list[Person]:
    return [_person(row) for row in User.select().order_by(User.username)]


def _anybody() -> bool:
    return bool(User.select(User.id).limit(1).count())


def _add(username: str, role: str, password_hash: str | None) -> Person:
    highest = User.select(fn.MAX(User.uid)).scalar()
    row = User.create(
        id=str(uuid.uuid4()),
        username=username,
        role=role,
        password_hash=password_hash,
        uid=(highest + 1) if highest else FIRST_UID,
        created_at=int(time.time() * 1000),
    )
    return _person(row)


def _add_first(username: str, password_hash: str) -> bool:
    if _anybody():
        return False
    _add(username, "admin", password_hash)
    return True


def _person(row: User) -> Person:
    return Person(row.id, row.username, row.role, row.uid, row.disabled)
