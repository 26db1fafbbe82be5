"""Every table on one page. Instants are whole milliseconds since 1970, UTC; ids are text."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_driver() -> Iterator[None]:
    """peewee imports every driver that it finds, and psycopg alone takes 11 MiB that SQLite
    never uses: db.py loads it when the database is PostgreSQL."""
    if "psycopg" in sys.modules:
        yield  # somebody wanted it
        return
    sys.modules["psycopg"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["psycopg"]


with no_driver():
    from peewee import (
        AutoField,
        BigIntegerField,
        BooleanField,
        CompositeKey,
        FloatField,
        ForeignKeyField,
        IntegerField,
        Model,
        TextField,
    )


class Table(Model):
    class Meta:
        legacy_table_names = False


class User(Table):
    id = TextField(primary_key=True)
    username = TextField(unique=True)
    role = TextField()  # admin | user
    email = TextField(null=True)
    password_hash = TextField(null=True)
    disabled = BooleanField(default=False)
    uid = IntegerField(unique=True)  # whose processes run under it when the server is root
    created_at = BigIntegerField()

    class Meta:
        table_name = "users"


class Instance(Table):
    """A running server. What a dead one left behind is recovered by the next."""

    id = TextField(primary_key=True)
    host = TextField()
    process = TextField()
    started_at = BigIntegerField()
    heartbeat_at = BigIntegerField()

    class Meta:
        table_name = "instances"


class Session(Table):
    id = TextField(primary_key=True)
    user = ForeignKeyField(User, backref="sessions", on_delete="CASCADE")
    title = TextField(default="")
    cwd = TextField()
    model = TextField(default="")
    permission_mode = TextField()
    purpose = TextField(default="chat")  # chat | job | run | task
    system_prompt = TextField(default="")
    allowed_tools = TextField(default="[]")
    max_turns = IntegerField(null=True)
    cli_id = TextField(null=True)  # the CLI's own name for the conversation, once it has begun
    instance_id = TextField(null=True, index=True)  # the server that holds it
    last_turn = IntegerField(default=0)
    reserved_seq = BigIntegerField(default=0)  # no event beyond it was ever numbered
    cost_usd = FloatField(default=0.0)
    created_at = BigIntegerField()
    last_active_at = BigIntegerField()

    class Meta:
        table_name = "sessions"
        indexes = ((("user", "last_active_at", "id"), False),)


class Turn(Table):
    """A prompt that was accepted: queued, started, finished."""

    session = ForeignKeyField(Session, backref="turns", on_delete="CASCADE")
    number = IntegerField()
    uuid = TextField()
    source = TextField()  # api | panel | telegram | job
    prompt = TextField()
    fresh = BooleanField(default=False)  # begin the CLI's conversation anew
    state = TextField(default="queued")  # queued | started | finished
    outcome = TextField(null=True)
    created_at = BigIntegerField()
    started_at = BigIntegerField(null=True)
    finished_at = BigIntegerField(null=True)

    class Meta:
        table_name = "turns"
        primary_key = CompositeKey("session", "number")
        indexes = ((("session", "uuid"), True), (("state",), False))


class Event(Table):
    """One line of a session's log, as readers get it."""

    session = ForeignKeyField(Session, backref="events", on_delete="CASCADE")
    seq = BigIntegerField()
    turn = IntegerField()
    type = TextField()
    at = BigIntegerField(index=True)
    line = TextField()

    class Meta:
        table_name = "events"
        primary_key = CompositeKey("session", "seq")


class Usage(Table):
    """What a turn used of one model. It outlives its session, and holds no text."""

    id = AutoField()
    user = ForeignKeyField(User, backref="usage", on_delete="CASCADE")
    session_id = TextField(index=True)
    turn = IntegerField()
    model = TextField()
    input_tokens = BigIntegerField()
    output_tokens = BigIntegerField()
    cache_read_tokens = BigIntegerField()
    cache_write_tokens = BigIntegerField()
    cost_usd = FloatField(null=True)  # unknown where the price is not the CLI's to tell
    duration_ms = BigIntegerField()
    at = BigIntegerField()

    class Meta:
        table_name = "usage"
        indexes = ((("user", "at"), False),)


TABLES: tuple[type[Table], ...] = (User, Instance, Session, Turn, Event, Usage)
