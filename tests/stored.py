"""Databases for tests: opened, with people, sessions and prompts in them; and ways to harm one."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from models import User

import psycopg

from db import Database
from sessions import store
from sessions.store import SessionRow, TurnRow
from sessions.workspace import Owner


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    db = Database(url)
    try:
        await db.migrate()
        yield db
    finally:
        await db.close()


def sql(statement: str, *values: Any) -> list[Any]:
    """Run inside `db.run` or `db.read`, on the connection of that thread."""
    cursor: Any = User._meta.database.execute_sql(statement, values)
    return cursor.fetchall() if cursor.description else []


def add_person(name: str = "ann", uid: int = 20_000) -> Owner:
    row = User.create(id=str(uuid.uuid4()), username=name, role="user", uid=uid, created_at=1)
    return Owner(id=row.id, username=name, uid=uid)


def add_session(owner: Owner, **fields: Any) -> SessionRow:
    needed = {"cwd": "/home", "permission_mode": "default", "allowed_tools": []}
    return store.create(owner, **{**needed, **fields})


def new_turn(session_id: str, number: int = 1, **fields: Any) -> TurnRow:
    usual = {"source": "api", "prompt": "Go.", "fresh": False, "state": "queued"}
    given = {"uuid": str(uuid.uuid4()), **usual, **fields}
    return TurnRow(session_id=session_id, number=number, **given)


def add_turn(session_id: str, number: int = 1, **fields: Any) -> TurnRow:
    turn = new_turn(session_id, number, **fields)
    store.add_turn(turn, "Title")
    return turn


async def person(db: Database, name: str = "ann", uid: int = 20_000) -> Owner:
    return await db.run(add_person, name, uid)


async def session(db: Database, owner: Owner, **fields: Any) -> SessionRow:
    return await db.run(lambda: add_session(owner, **fields))


async def turn(db: Database, session_id: str, number: int = 1, **fields: Any) -> TurnRow:
    return await db.run(lambda: add_turn(session_id, number, **fields))


async def change(db: Database, session_id: str, **fields: Any) -> None:
    await db.run(lambda: store.change(session_id, **fields))


async def fill_up(db: Database) -> None:
    """SQLite's disk is full from now on: it may take no further page."""
    [(pages,)] = await db.run(sql, "PRAGMA page_count")
    await db.run(sql, f"PRAGMA max_page_count = {pages}")


async def make_room(db: Database) -> None:
    await db.run(sql, "PRAGMA max_page_count = 1000000")


async def refuse_writes(db: Database) -> None:
    await db.run(sql, "PRAGMA query_only = 1")


async def take_writes(db: Database) -> None:
    await db.run(sql, "PRAGMA query_only = 0")


def end_connections(url: str) -> None:
    """What a restart of PostgreSQL does to those who are connected."""
    ours = "datname = current_database() AND pid <> pg_backend_pid()"
    with psycopg.connect(url, autocommit=True) as other:
        other.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}")
        until(lambda: not other.execute(f"SELECT 1 FROM pg_stat_activity WHERE {ours}").fetchall())


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.005)


async def soon(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(0.005)


def open_files(path: Path) -> list[str]:
    """The descriptors of this process on that file and its companions."""
    held = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:
            continue
        if target.startswith(str(path)):
            held.append(target)
    return held
