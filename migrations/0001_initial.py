"""Users, running servers, sessions with their turns and events, and what was used.

A frozen copy of the tables as they were then: models.py may move on, this may not.
"""

from typing import Any

from peewee import (
    AutoField,
    BigIntegerField,
    BooleanField,
    CompositeKey,
    Database,
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
    role = TextField()
    email = TextField(null=True)
    password_hash = TextField(null=True)
    disabled = BooleanField(default=False)
    uid = IntegerField(unique=True)
    created_at = BigIntegerField()

    class Meta:
        table_name = "users"


class Instance(Table):
    id = TextField(primary_key=True)
    host = TextField()
    process = TextField()
    started_at = BigIntegerField()
    heartbeat_at = BigIntegerField()

    class Meta:
        table_name = "instances"


class Session(Table):
    id = TextField(primary_key=True)
    user = ForeignKeyField(User, on_delete="CASCADE")
    title = TextField(default="")
    cwd = TextField()
    model = TextField(default="")
    permission_mode = TextField()
    purpose = TextField(default="chat")
    system_prompt = TextField(default="")
    allowed_tools = TextField(default="[]")
    max_turns = IntegerField(null=True)
    cli_id = TextField(null=True)
    instance_id = TextField(null=True, index=True)
    last_turn = IntegerField(default=0)
    reserved_seq = BigIntegerField(default=0)
    cost_usd = FloatField(default=0.0)
    created_at = BigIntegerField()
    last_active_at = BigIntegerField()

    class Meta:
        table_name = "sessions"
        indexes = ((("user", "last_active_at", "id"), False),)


class Turn(Table):
    session = ForeignKeyField(Session, on_delete="CASCADE")
    number = IntegerField()
    uuid = TextField()
    source = TextField()
    prompt = TextField()
    fresh = BooleanField(default=False)
    state = TextField(default="queued")
    outcome = TextField(null=True)
    created_at = BigIntegerField()
    started_at = BigIntegerField(null=True)
    finished_at = BigIntegerField(null=True)

    class Meta:
        table_name = "turns"
        primary_key = CompositeKey("session", "number")
        indexes = ((("session", "uuid"), True), (("state",), False))


class Event(Table):
    session = ForeignKeyField(Session, on_delete="CASCADE")
    seq = BigIntegerField()
    turn = IntegerField()
    type = TextField()
    at = BigIntegerField(index=True)
    line = TextField()

    class Meta:
        table_name = "events"
        primary_key = CompositeKey("session", "seq")


class Usage(Table):
    id = AutoField()
    user = ForeignKeyField(User, on_delete="CASCADE")
    session_id = TextField(index=True)
    turn = IntegerField()
    model = TextField()
    input_tokens = BigIntegerField()
    output_tokens = BigIntegerField()
    cache_read_tokens = BigIntegerField()
    cache_write_tokens = BigIntegerField()
    cost_usd = FloatField(null=True)
    duration_ms = BigIntegerField()
    at = BigIntegerField()

    class Meta:
        table_name = "usage"
        indexes = ((("user", "at"), False),)


def up(migrator: Any, db: Database) -> None:
    with db.bind_ctx([User, Instance, Session, Turn, Event, Usage]):
        db.create_tables([User, Instance, Session, Turn, Event, Usage])
