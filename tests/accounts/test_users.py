"""The people of this server, over both databases."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import nullcontext
from typing import Any

from models import User

import psycopg
import pytest

from accounts import passwords
from accounts.passwords import Hasher
from accounts.users import FIRST_UID, Users
from config import Settings
from db import Database
from errors import AppError
from tests.stored import opened, soon

HASH = "$2b$12$" + "a" * 53


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "COST", 4)


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    async with opened(database_url) as db:
        yield db


@pytest.fixture
async def users(db: Database) -> AsyncIterator[Users]:
    users = Users(db, Hasher())
    yield users
    await users.close()


async def hash_of(db: Database, username: str) -> str | None:
    return await db.read(lambda: User.get(User.username == username).password_hash)


async def all_at_once(url: str, *calls: Coroutine[Any, Any, object]) -> list[object]:
    """On PostgreSQL all of them look before any of them writes."""
    with psycopg.connect(url) if url.startswith("postgresql") else nullcontext() as other:
        if other:
            other.execute("LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE")
        tasks = [asyncio.ensure_future(call) for call in calls]
        if other:
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            await soon(lambda: other.execute(waiting).fetchone() == (len(calls),))
            other.rollback()
        return await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_user_is_found_by_name(users: Users) -> None:
    added = await users.add("ann")
    assert (added.username, added.role, added.uid, added.is_admin) == (
        "ann",
        "user",
        FIRST_UID,
        False,
    )
    assert await users.named("ann") == added
    admin = await users.add("root", is_admin=True)
    assert admin.is_admin
    assert admin.uid == FIRST_UID + 1
    assert [person.username for person in await users.list()] == ["ann", "root"]


async def test_a_password_is_kept_as_its_hash_only(db: Database, users: Users) -> None:
    await users.add("ann", password="correct horse battery")
    await users.add("bob")
    stored = await hash_of(db, "ann")
    assert stored
    assert passwords.matches("correct horse battery", stored)
    assert await hash_of(db, "bob") is None


async def test_a_slug_is_taken(users: Users) -> None:
    for slug in ("a", "0", "a-b_c", "x" * 32, "0_-"):
        assert (await users.add(slug)).username == slug


async def test_what_is_no_slug_is_refused(users: Users) -> None:
    odd = ["", "A", "-a", "_a", "a b", "a/b", "..", "x" * 33, "ünï", "a\n", "a\0", "a.b", "٣"]
    for slug in (*odd, "\udcff", "'; --"):
        with pytest.raises(AppError, match="1 to 32 of a-z") as raised:
            await users.add(slug)
        assert raised.value.code == "invalid"
        with pytest.raises(AppError, match="There is no user") as raised:
            await users.named(slug)
        assert raised.value.code == "not_found"
    assert await users.list() == []


async def test_a_name_that_is_taken_is_refused(users: Users) -> None:
    first = await users.add("ann")
    with pytest.raises(AppError, match="There is a user 'ann' already") as raised:
        await users.add("ann", is_admin=True)
    assert raised.value.code == "conflict"
    assert await users.list() == [first]


async def test_a_disabled_user_may_nothing(db: Database, users: Users) -> None:
    await users.add("ann")
    await db.run(lambda: User.update(disabled=True).execute())
    with pytest.raises(AppError, match="disabled") as raised:
        await users.named("ann")
    assert raised.value.code == "forbidden"


async def test_many_added_at_once_have_uids_of_their_own(users: Users, database_url: str) -> None:
    await all_at_once(database_url, *(users.add(f"user-{number}") for number in range(4)))
    uids = [person.uid for person in await users.list()]
    assert sorted(uids) == list(range(FIRST_UID, FIRST_UID + 4))


async def test_the_same_name_added_at_once_is_added_once(users: Users, database_url: str) -> None:
    done = await all_at_once(database_url, *(users.add("ann") for _ in range(4)))
    assert [one.code for one in done if isinstance(one, AppError)] == ["conflict"] * 3
    assert len(await users.list()) == 1


# The first admin


async def test_the_first_admins_password_is_made_up_and_told_once(
    db: Database, users: Users
) -> None:
    made_up = await users.make_first_admin(Settings())
    assert made_up
    stored = await hash_of(db, "admin")
    assert stored
    assert passwords.matches(made_up, stored)
    assert (await users.named("admin")).is_admin
    assert await users.make_first_admin(Settings()) is None
    assert await users.make_first_admin(Settings(web_auth_username="another")) is None
    assert len(await users.list()) == 1


async def test_the_first_admins_password_can_be_given(db: Database, users: Users) -> None:
    settings = Settings(web_auth_username="boss", web_auth_password="correct horse battery")
    assert await users.make_first_admin(settings) is None
    stored = await hash_of(db, "boss")
    assert stored
    assert passwords.matches("correct horse battery", stored)


async def test_the_first_admins_hash_is_kept_as_it_was_given(db: Database, users: Users) -> None:
    assert await users.make_first_admin(Settings(web_auth_password_hash=HASH)) is None
    assert await hash_of(db, "admin") == HASH


async def test_a_wrong_name_for_the_first_admin_is_told(users: Users) -> None:
    with pytest.raises(AppError, match="WEB_AUTH_USERNAME must be"):
        await users.make_first_admin(Settings(web_auth_username="The Boss"))
    assert await users.list() == []


async def test_nobody_becomes_admin_when_there_are_users(users: Users) -> None:
    await users.add("ann")
    assert await users.make_first_admin(Settings()) is None
    assert [person.role for person in await users.list()] == ["user"]


@pytest.mark.parametrize("names", [["admin"] * 4, ["one", "two", "three", "four"]])
async def test_several_first_starts_at_once_make_one_admin(
    db: Database, users: Users, database_url: str, names: list[str]
) -> None:
    starts = (users.make_first_admin(Settings(web_auth_username=name)) for name in names)
    told = [one for one in await all_at_once(database_url, *starts) if one]
    [admin] = await users.list()
    stored = await hash_of(db, admin.username)
    assert stored
    assert [passwords.matches(str(password), stored) for password in told] == [True]
