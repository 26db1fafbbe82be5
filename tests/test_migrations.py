"""Migrations: they make what models.py says, once, whoever else is at it."""

import asyncio
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models import TABLES, User

import psycopg
import pytest
from playhouse.db_url import connect

import db as database
from db import MIGRATION_LOCK, Database
from errors import AppError
from tests.postgres import new_database
from tests.stored import add_person, opened, soon

ROOT = Path(__file__).resolve().parent.parent
TOGETHER = 8
HISTORY = "schema_migration"
MIGRATE = """
import asyncio, sys
from db import Database
print(flush=True)
sys.stdin.readline()
async def migrate():
    db = Database(sys.argv[1])
    try:
        await db.migrate()
    finally:
        await db.close()
asyncio.run(migrate())
"""

Schema = dict[str, set[Any]]


# What is in a database


def schema_of(url: str) -> Schema:
    with connect(url) as made:
        tables = [table for table in made.get_tables() if table != HISTORY]
        look = _sqlite_table if url.startswith("sqlite") else _postgresql_table
        return {table: set(look(made, table)) for table in tables}


def _sqlite_table(made: Any, table: str) -> Iterator[tuple[Any, ...]]:
    for column in made.execute_sql(f"PRAGMA table_info({table})"):
        yield ("column", *column[1:])
    for _, name, unique, origin, partial in made.execute_sql(f"PRAGMA index_list({table})"):
        columns = tuple(row[2] for row in made.execute_sql(f"PRAGMA index_info({name})"))
        yield ("index", name, unique, origin, partial, columns)
    for key in made.execute_sql(f"PRAGMA foreign_key_list({table})"):
        yield ("key", *key[2:])


def _postgresql_table(made: Any, table: str) -> Iterator[tuple[Any, ...]]:
    fields = "column_name, data_type, is_nullable, column_default"
    found = f"SELECT {fields} FROM information_schema.columns WHERE table_name = %s"
    for column in made.execute_sql(found, (table,)):
        yield ("column", *column)
    found = "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = %s"
    for index in made.execute_sql(found, (table,)):
        yield ("index", *index)
    found = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass"
    for rule in made.execute_sql(found, (table,)):
        yield ("rule", *rule)


@contextmanager
def another(url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A second empty database of the same kind."""
    if url.startswith("sqlite"):
        yield f"sqlite:///{tmp_path}/another.db"
        return
    with new_database(request.getfixturevalue("postgres_url")) as second:
        yield second


def make_tables_of_models(url: str) -> None:
    with connect(url) as made, made.bind_ctx(TABLES, bind_refs=False, bind_backrefs=False):
        made.create_tables(TABLES)


async def test_migrations_make_exactly_what_models_say(
    database_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    async with opened(database_url):
        pass
    with another(database_url, tmp_path, request) as second:
        make_tables_of_models(second)
        assert schema_of(database_url) == schema_of(second)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE users ADD COLUMN nickname TEXT",
        "CREATE INDEX later ON users (role)",
        "CREATE UNIQUE INDEX later ON turns (created_at)",
        "DROP INDEX turns_state",
        "CREATE TABLE later (id INTEGER PRIMARY KEY)",
    ],
)
def test_a_change_without_a_migration_would_be_seen(database_url: str, change: str) -> None:
    make_tables_of_models(database_url)
    before = schema_of(database_url)
    with connect(database_url) as made:
        made.execute_sql(change)
    assert schema_of(database_url) != before


async def test_migrating_twice_changes_nothing(database_url: str) -> None:
    async with opened(database_url) as db:
        await db.run(add_person)
        before = schema_of(database_url)
        await db.migrate()
        assert await db.read(lambda: User.select().count()) == 1
    async with opened(database_url) as db:
        assert await db.read(lambda: User.select().count()) == 1
    assert schema_of(database_url) == before


# A later migration, on a database that is in use


@pytest.fixture
def later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the next migration goes: a folder that has the present ones."""
    folder = tmp_path / "migrations"
    shutil.copytree(database.MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(database, "MIGRATIONS", folder)
    return folder / "0002_later.py"


ADD_COLUMN = """
from peewee import TextField
def up(migrator, db):
    migrator.migrate(migrator.add_column("users", "nickname", TextField(default="none")))
"""


async def test_a_later_migration_keeps_what_is_stored(database_url: str, later: Path) -> None:
    async with opened(database_url) as db:
        await db.run(add_person, "ann")
        later.write_text(ADD_COLUMN)
        await db.migrate()
    with connect(database_url) as made:
        rows = made.execute_sql("SELECT username, nickname FROM users")
        assert list(rows) == [("ann", "none")]


async def test_a_migration_that_breaks_leaves_no_half_of_it(database_url: str, later: Path) -> None:
    async with opened(database_url) as db:
        before = schema_of(database_url)
        later.write_text(ADD_COLUMN + "    db.execute_sql('SELECT * FROM no_such_table')\n")
        with pytest.raises(AppError, match="no_such_table") as raised:
            await db.migrate()
        assert raised.value.code == "unavailable"
        assert schema_of(database_url) == before
        later.write_text(ADD_COLUMN)
        await db.migrate()
        assert schema_of(database_url) != before


# Several at once


def test_eight_processes_that_migrate_at_once_all_succeed(database_url: str) -> None:
    command = [sys.executable, "-W", "error", "-c", MIGRATE, database_url]
    processes = [_started(command) for _ in range(TOGETHER)]
    for process in processes:
        assert process.stdout
        process.stdout.readline()
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    ended = [(process.communicate(timeout=60), process.returncode) for process in processes]
    assert [code for _, code in ended] == [0] * TOGETHER, ended
    with connect(database_url) as made:
        assert list(made.execute_sql(f"SELECT name FROM {HISTORY}")) == [("0001_initial",)]
        assert set(made.get_tables()) > {"users", "sessions"}


def _started(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def someone_migrates(db: Database, url: str) -> Iterator[Callable[[], object]]:
    """Another process holds the lock; whether anybody waits for it."""
    if db.sqlite_file:
        with db.sqlite_file.with_suffix(".migrating").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            file = f":{os.fstat(lock.fileno()).st_ino} "
            yield lambda: any("->" in line and file in line for line in held_locks())
        return
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
        waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        yield lambda: other.execute(waiting).fetchall()


def held_locks() -> list[str]:
    return Path("/proc/locks").read_text().splitlines()


async def test_whoever_migrates_waits_for_one_who_does(database_url: str) -> None:
    db = Database(database_url)
    with someone_migrates(db, database_url) as somebody_waits:
        migrating = asyncio.create_task(db.migrate())
        await soon(somebody_waits)
        assert schema_of(database_url) == {}
    await migrating
    await db.close()
    assert "users" in schema_of(database_url)
