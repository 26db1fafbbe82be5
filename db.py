"""The database, on threads of its own: `await db.run(fn)` is one transaction.

SQLite has one writer thread and a read-only one beside it, so that a long list
never holds up a write; PostgreSQL has a small pool. Never await in a transaction.
"""

import asyncio
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from models import TABLES, no_driver

import peewee

from errors import AppError, ConfigError, unavailable

with no_driver():
    from playhouse.migrations import Runner

P = ParamSpec("P")
T = TypeVar("T")

POOL_SIZE = 4
WRITING = ("BEGIN",)
READING = {"sqlite": ("PRAGMA query_only = 1", "BEGIN"), "postgresql": ("BEGIN READ ONLY",)}
MIGRATIONS = Path(__file__).resolve().parent / "migrations"
MIGRATION_LOCK = 0x636C6175  # any number that is the same in every server
TROUBLE = (peewee.InterfaceError, peewee.DatabaseError)
# A server that is gone without a word is noticed within a minute, not within hours.
POSTGRESQL = {
    "application_name": "claude-orchestrator",
    "connect_timeout": "10",
    "keepalives_idle": "20",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "40000",
}

log = logging.getLogger(__name__)


class Database:
    def __init__(self, url: str) -> None:
        self.dialect = "sqlite" if url.startswith("sqlite:") else "postgresql"
        self.sqlite_file = _sqlite_file(url) if self.dialect == "sqlite" else None
        parts = {} if self.sqlite_file else _postgresql_parts(url)
        self._password = str(parts.get("password") or "")
        # Any: half of peewee's own calls have no types.
        self._peewee: Any = _sqlite(self.sqlite_file) if self.sqlite_file else _postgresql(parts)
        self._peewee.bind(TABLES, bind_refs=False, bind_backrefs=False)
        self._connections: set[Any] = set()
        self._writer, self._reader = self._threads()
        self.last_trouble = ""

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run fn in a transaction of its own."""
        return await self._on(self._writer, WRITING, lambda: fn(*args, **kwargs))

    async def read(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run fn, which only reads, without waiting for the writers."""
        opening = READING[self.dialect]
        return await self._on(self._reader, opening, lambda: fn(*args, **kwargs))

    async def migrate(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._writer, self._migrate)

    async def close(self) -> None:
        for threads in {self._writer, self._reader}:
            await asyncio.to_thread(threads.shutdown)
        for connection in self._connections:
            connection.close()

    async def _on(
        self, threads: ThreadPoolExecutor, opening: tuple[str, ...], fn: Callable[[], T]
    ) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(threads, self._in_transaction, opening, fn)

    def _in_transaction(self, opening: tuple[str, ...], fn: Callable[[], T]) -> T:
        try:
            self._begin(opening)
            try:
                answer = fn()
                self._peewee.commit()
            except BaseException:
                self._rollback()
                raise
        except peewee.IntegrityError:
            raise
        except TROUBLE as error:
            raise self._told(error) from error
        self.last_trouble = ""
        return answer

    def _begin(self, opening: tuple[str, ...]) -> None:
        used = not self._peewee.is_closed()
        try:
            self._say(opening)
        except TROUBLE:
            self._hang_up()
            if not used:
                raise
            # The connection may have died since it was last used: once more on a new one.
            self._say(opening)

    def _say(self, statements: tuple[str, ...]) -> None:
        self._connect()
        for statement in statements:
            self._peewee.execute_sql(statement)

    def _connect(self) -> None:
        if self._peewee.is_closed():
            self._peewee.connect()
            self._connections.add(self._peewee.connection())

    def _rollback(self) -> None:
        """What went wrong is told by its own error, not by what it leaves behind."""
        connection = self._peewee.connection()
        # SQLite itself takes the whole transaction back after some faults, as of a full disk.
        if getattr(connection, "in_transaction", True):
            try:
                self._peewee.rollback()
            except TROUBLE:
                self._hang_up()

    def _hang_up(self) -> None:
        if not self._peewee.is_closed():
            self._connections.discard(self._peewee.connection())
            with suppress(*TROUBLE):
                self._peewee.close()

    def _told(self, error: Exception) -> AppError:
        said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        self.last_trouble = said.replace(self._password, "…") if self._password else said
        log.error("the database failed: %s", self.last_trouble)
        return unavailable(f"The database does not answer as it should: {self.last_trouble}.")

    def _threads(self) -> tuple[ThreadPoolExecutor, ThreadPoolExecutor]:
        if self.dialect == "postgresql":
            pool = ThreadPoolExecutor(POOL_SIZE, "db")
            return pool, pool
        return ThreadPoolExecutor(1, "db-writer"), ThreadPoolExecutor(1, "db-reader")

    def _migrate(self) -> None:
        try:
            self._connect()
            with self._migration_lock():
                applied = Runner(self._peewee, directory=str(MIGRATIONS)).up()
        except (*TROUBLE, OSError) as error:
            raise self._told(error) from error
        if applied:
            log.info("migrated the database: %s", ", ".join(applied))

    @contextmanager
    def _migration_lock(self) -> Iterator[None]:
        if self.sqlite_file:
            with self.sqlite_file.with_suffix(".migrating").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
            return
        self._peewee.execute_sql("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
        try:
            yield
        finally:
            self._peewee.execute_sql("SELECT pg_advisory_unlock(%s)", (MIGRATION_LOCK,))


def _sqlite_file(url: str) -> Path:
    path = url.removeprefix("sqlite://").removeprefix("/")
    if not path or path == ":memory:":
        raise ConfigError("DATABASE_URL must name a file, as in sqlite:////opt/data/my.db.")
    return Path(path).absolute()


def _sqlite(file: Path) -> peewee.SqliteDatabase:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise ConfigError(
            f"The database {file} can't be opened: {error.strerror}; see DATABASE_URL and DATA_DIR."
        ) from error
    pragmas = {
        "journal_mode": "wal",
        "synchronous": "full",
        "foreign_keys": 1,
        "journal_size_limit": 64 * 1024 * 1024,
    }
    return peewee.SqliteDatabase(str(file), pragmas=pragmas, check_same_thread=False)


def _postgresql_parts(url: str) -> dict[str, Any]:
    """What is wrong with a URL is not repeated: its password would be in it."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        parts = conninfo_to_dict(url)
    except ProgrammingError:
        parts = {"port": "none"}
    places = f"{parts.get('host', '')}{parts.get('dbname', '')}"
    ports = str(parts.get("port", "0")).split(",")
    if "@" not in places and all(port.isdigit() for port in ports):
        return {**POSTGRESQL, **parts}
    raise ConfigError(
        "DATABASE_URL is no address of a PostgreSQL database, such as postgresql://user:"
        "password@host:5432/name; in a password, write @ : / % as %40 %3A %2F %25."
    )


def _postgresql(parts: dict[str, Any]) -> peewee.PostgresqlDatabase:
    import psycopg

    class Driver(peewee.Psycopg3Adapter):
        """peewee's own, which looked for psycopg before it was loaded (see models.py)."""

        txn_idle = psycopg.pq.TransactionStatus.IDLE
        txn_inerror = psycopg.pq.TransactionStatus.INERROR
        txn_unknown = psycopg.pq.TransactionStatus.UNKNOWN

        def check_driver(self) -> None:
            pass

        def connect(self, db: peewee.Database, **params: Any) -> Any:
            return psycopg.connect(**parts)

    database: Any = peewee.PostgresqlDatabase("postgresql")
    database._adapter = Driver()
    return database  # type: ignore[no-any-return]
