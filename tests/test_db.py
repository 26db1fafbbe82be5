"""The database on its threads: transactions, faults and what heals by itself."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from models import User

import psycopg
import pytest
from peewee import IntegrityError

from db import POOL_SIZE, Database
from errors import AppError, ConfigError, conflict
from tests.postgres import new_database
from tests.stored import add_person, end_connections, fill_up, make_room, open_files, opened, sql

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    async with opened(database_url) as db:
        yield db


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    with new_database(postgres_url) as url:
        yield url


@pytest.fixture
async def postgres(postgres_database: str) -> AsyncIterator[Database]:
    async with opened(postgres_database) as db:
        yield db


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[Database]:
    async with opened(f"sqlite:///{tmp_path}/test.db") as db:
        yield db


def names() -> list[str]:
    return [row.username for row in User.select().order_by(User.username)]


# Transactions


async def test_what_a_function_did_is_there_after_it(db: Database) -> None:
    await db.run(add_person, "ann")
    assert await db.read(names) == ["ann"]


@pytest.mark.parametrize("error", [ValueError("no"), conflict("No."), KeyboardInterrupt()])
async def test_an_error_takes_everything_back(db: Database, error: BaseException) -> None:
    def half() -> None:
        add_person("ann")
        raise error

    with pytest.raises(type(error)) as raised:
        await db.run(half)
    assert raised.value is error
    assert await db.read(names) == []
    await db.run(add_person, "bob")
    assert await db.read(names) == ["bob"]


async def test_a_broken_rule_of_the_tables_is_for_the_caller_to_judge(db: Database) -> None:
    def twice() -> None:
        add_person("bob", 20_001)
        add_person("ann", 20_002)

    await db.run(add_person, "ann")
    with pytest.raises(IntegrityError):
        await db.run(twice)
    assert await db.read(names) == ["ann"]


async def test_a_mistake_in_sql_does_not_spoil_the_connection(db: Database) -> None:
    with pytest.raises(AppError, match="no_such_table"):
        await db.run(sql, "SELECT * FROM no_such_table")
    await db.run(add_person)
    assert await db.read(names) == ["ann"]


async def test_many_at_once_lose_no_update(db: Database) -> None:
    owner = await db.run(add_person)

    def older() -> None:
        User.update(created_at=User.created_at + 1).where(User.id == owner.id).execute()

    await asyncio.gather(*(db.run(older) for _ in range(50)))
    assert await db.read(lambda: User.get_by_id(owner.id).created_at) == 51


async def test_whoever_stops_waiting_leaves_a_sound_connection(db: Database) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slowly() -> None:
        add_person("ann")
        begun.set()
        go_on.wait(10)

    task = asyncio.create_task(db.run(slowly))
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    go_on.set()
    await db.run(add_person, "bob", 20_001)
    assert "bob" in await db.read(names)


# Readers


async def test_a_reader_cannot_write(db: Database) -> None:
    with pytest.raises(AppError, match=r"read-?only"):
        await db.read(add_person)
    assert await db.read(names) == []


async def test_a_reader_cannot_write_whatever_its_connection_went_through(sqlite: Database) -> None:
    await sqlite.read(sql, "PRAGMA query_only = 0")
    with pytest.raises(AppError, match="readonly"):
        await sqlite.read(add_person)


async def test_a_long_read_does_not_hold_up_a_write(db: Database) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def look_for_long() -> tuple[list[str], list[str]]:
        before = names()
        begun.set()
        assert go_on.wait(10)
        return before, names()

    looking = asyncio.create_task(db.read(look_for_long))
    await asyncio.to_thread(begun.wait, 10)
    async with asyncio.timeout(5):
        await db.run(add_person)
    go_on.set()
    before, after = await looking
    assert before == []
    # SQLite's reader sees one moment; PostgreSQL's sees what is committed.
    assert after == ([] if db.dialect == "sqlite" else ["ann"])


# Values


@pytest.mark.parametrize(
    "text", ["", "\U0001f469\u200d\U0001f680 ünï", "'; DROP TABLE users; --", "%s ? {0}\\"]
)
async def test_text_comes_back_as_it_went_in(db: Database, text: str) -> None:
    def write() -> None:
        User.create(id="1", username=text, role="user", uid=1, created_at=1)

    await db.run(write)
    assert await db.read(names) == [text]


async def test_eight_mebibytes_come_back_as_they_went_in(db: Database) -> None:
    text = "\U0001f469 eight mebibytes " * (8 * 1024 * 1024 // 21)

    def write() -> None:
        User.create(id="1", username="ann", email=text, role="user", uid=1, created_at=1)

    await db.run(write)
    assert await db.read(lambda: User.get_by_id("1").email) == text


# Faults, and what heals


async def test_a_full_disk_is_told_and_nothing_is_half_written(sqlite: Database) -> None:
    def much() -> None:
        add_person("ann", 20_000)
        User.update(email="x" * 1_000_000).execute()

    await fill_up(sqlite)
    for _ in range(3):
        with pytest.raises(AppError, match="disk is full") as raised:
            await sqlite.run(much)
        assert raised.value.code == "unavailable"
    assert sqlite.last_trouble == "database or disk is full"
    await make_room(sqlite)
    await sqlite.run(much)
    assert await sqlite.read(names) == ["ann"]
    assert sqlite.last_trouble == ""


async def test_a_postgresql_that_turned_readonly_is_told(
    postgres: Database, postgres_database: str
) -> None:
    name = postgres_database.rpartition("/")[2]
    switch = f"ALTER DATABASE {name} SET default_transaction_read_only = "
    with psycopg.connect(postgres_database, autocommit=True) as operator:
        operator.execute(switch + "on")
        end_connections(postgres_database)
    with pytest.raises(AppError, match="read-only") as raised:
        await postgres.run(add_person)
    assert raised.value.code == "unavailable"
    with psycopg.connect(postgres_database, autocommit=True) as operator:
        operator.execute("SET default_transaction_read_only = off")
        operator.execute(switch + "off")
    end_connections(postgres_database)
    await postgres.run(add_person)


async def every_connection(db: Database) -> None:
    """Have each thread of the pool connect."""
    together = threading.Barrier(POOL_SIZE)
    await asyncio.gather(*(db.run(lambda: together.wait(10)) for _ in range(POOL_SIZE)))


async def test_a_restarted_postgresql_is_no_error_to_the_next_caller(
    postgres: Database, postgres_database: str
) -> None:
    await every_connection(postgres)
    end_connections(postgres_database)
    await every_connection(postgres)
    end_connections(postgres_database)
    await asyncio.gather(*(postgres.read(names) for _ in range(POOL_SIZE)))


async def test_a_connection_cut_in_mid_transaction_is_told_and_then_replaced(
    postgres: Database, postgres_database: str
) -> None:
    def cut() -> None:
        add_person("ann")
        end_connections(postgres_database)
        add_person("bob", 20_001)

    with pytest.raises(AppError) as raised:
        await postgres.run(cut)
    assert raised.value.code == "unavailable"
    assert await postgres.read(names) == []


async def test_a_commit_that_cannot_be_sent_is_told(
    postgres: Database, postgres_database: str
) -> None:
    def cut_at_the_end() -> None:
        add_person("ann")
        end_connections(postgres_database)

    with pytest.raises(AppError):
        await postgres.run(cut_at_the_end)
    assert await postgres.read(names) == []


# Secrets, and addresses that are wrong


async def test_an_unreachable_server_is_told_without_its_password() -> None:
    db = Database("postgresql://app:hush-hush@127.0.0.1:1/name")
    for call in (db.migrate(), db.run(names), db.read(names)):
        with pytest.raises(AppError, match=r"refused\.$") as raised:
            await call
        assert raised.value.code == "unavailable"
        assert "hush" not in raised.value.message
    assert "hush" not in db.last_trouble
    await db.close()


async def test_a_wrong_password_is_told_without_it(postgres_url: str) -> None:
    db = Database(postgres_url.replace("app:", "app:hush-hush"))
    with pytest.raises(AppError, match="password authentication failed") as raised:
        await db.migrate()
    assert "hush" not in raised.value.message
    await db.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app:hu%zzsh@127.0.0.1/name",
        "postgresql://app:hush/hush@127.0.0.1/name",
        "postgresql://app:hu@sh@127.0.0.1/name",
        "postgresql://app:hush@127.0.0.1/name?nosuch=hush",
        "postgresql://app:hush@127.0.0.1:port/name",
        "postgresql://[hush/name",
    ],
)
def test_an_address_that_is_none_is_told_without_its_parts(url: str) -> None:
    with pytest.raises(ConfigError, match="DATABASE_URL") as raised:
        Database(url)
    assert "hu" not in str(raised.value)
    assert raised.value.__context__ is None


@pytest.mark.parametrize("url", ["sqlite:///", "sqlite:///:memory:"])
def test_sqlite_must_be_a_file(url: str) -> None:
    with pytest.raises(ConfigError, match="DATABASE_URL must name a file"):
        Database(url)


def test_a_file_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"can't be opened: Is a directory"):
        Database(f"sqlite:///{tmp_path}")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"can't be opened: .*DATABASE_URL"):
        Database(f"sqlite:///{tmp_path}/file/test.db")


async def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "test.db").write_bytes(b"no database" * 1000)
    db = Database(f"sqlite:///{tmp_path}/test.db")
    for call in (db.migrate(), db.read(names), db.run(names)):
        with pytest.raises(AppError, match="not a database"):
            await call
    await db.close()


# Files and connections


async def test_only_the_server_may_read_the_file(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with opened(f"sqlite:///{tmp_path}/deep/er/test.db") as db:
            await db.run(add_person)
            files = sorted((tmp_path / "deep/er").glob("test.db*"))
            modes = {file.name: file.stat().st_mode & 0o777 for file in files}
    finally:
        os.umask(before)
    assert modes == {"test.db": 0o600, "test.db-shm": 0o600, "test.db-wal": 0o600}


async def test_close_leaves_nothing_open(database_url: str) -> None:
    async with opened(database_url) as db:
        await asyncio.gather(db.run(add_person), *(db.read(names) for _ in range(8)))
    gc.collect()
    if db.sqlite_file:
        assert open_files(db.sqlite_file) == []
    else:
        with psycopg.connect(database_url) as other:
            count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            assert other.execute(count).fetchone() == (1,)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_driver_of_postgresql_is_loaded_only_for_it(kind: str, tmp_path: Path) -> None:
    url = {"sqlite": f"sqlite:///{tmp_path}/test.db", "postgresql": "postgresql://app@127.0.0.1/x"}
    script = (
        "import sys, main, commands, db; db.Database(sys.argv[1]); print('psycopg' in sys.modules)"
    )
    command = [sys.executable, "-c", script, url[kind]]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == str(kind == "postgresql")


def test_a_driver_that_was_loaded_before_stays_the_one() -> None:
    script = "import sys, psycopg, models; print(sys.modules['psycopg'] is psycopg)"
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "True"
