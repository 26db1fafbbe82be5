"""What sessions keep: rows in and rows out. Every function runs inside `db.run` or `db.read`."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from models import Event, Instance, Session, Turn, Usage, User

import orjson
from peewee import fn

from errors import conflict
from sessions.events import CUT_OFF, done, instant, json_text, line, milliseconds
from sessions.protocol import Result, Spent
from sessions.workspace import Owner

RANGE = 1_000_000  # numbers are reserved so many at once: none is used again after a crash
PAGE = 512 * 1024

EventRow = tuple[str, int, int, str, int, str]  # session, seq, turn, type, at, line
Page = tuple[int, str]  # the last activity and the id of the last session on a page
FIRST: Page = (2**63 - 1, "")


class Listed(NamedTuple):
    """What a list tells of a session, with nothing that may be long."""

    id: str
    title: str
    cwd: str
    model: str
    permission_mode: str
    purpose: str
    cost_usd: float
    created_at: int
    last_active_at: int


LIST = (
    f"SELECT {', '.join(Listed._fields)} FROM sessions"  # noqa: S608
    " WHERE user_id = {0} AND (last_active_at, id) < ({0}, {0})"
    " ORDER BY last_active_at DESC, id DESC LIMIT {0}"
)


@dataclass(slots=True, kw_only=True)
class SessionRow:
    id: str
    owner: Owner
    title: str
    cwd: str
    model: str
    permission_mode: str
    purpose: str
    system_prompt: str
    allowed_tools: list[str]
    max_turns: int | None
    cli_id: str | None
    last_turn: int
    reserved_seq: int
    cost_usd: float
    created_at: int
    last_active_at: int


@dataclass(slots=True, kw_only=True)
class TurnRow:
    session_id: str
    number: int
    uuid: str
    source: str
    prompt: str
    fresh: bool
    state: str


def create(owner: Owner, **fields: Any) -> SessionRow:
    now = milliseconds()
    tools = json_text(fields.pop("allowed_tools"))
    row = Session.create(
        id=str(uuid.uuid4()),
        user=owner.id,
        created_at=now,
        last_active_at=now,
        allowed_tools=tools,
        **fields,
    )
    return _session(row, owner)


def find(owner: Owner, session_id: str) -> SessionRow | None:
    if "\0" in session_id:
        return None  # PostgreSQL refuses to look for one
    row = Session.get_or_none((Session.id == session_id) & (Session.user == owner.id))
    return _session(row, owner) if row else None


def of_user(owner: Owner, limit: int, after: Page | None) -> list[Listed]:
    """The newest activity first. In SQL, since building the query takes longer than running it."""
    database = Session._meta.database
    rows = database.execute_sql(LIST.format(database.param), (owner.id, *(after or FIRST), limit))
    return [Listed._make(row) for row in rows]


def hold(session_id: str, instance_id: str) -> SessionRow | None:
    """Take the session for this server, with a range of numbers; None when another holds it."""
    free = _held_by_nobody() | (Session.instance_id == instance_id)
    taken = Session.update(instance_id=instance_id).where((Session.id == session_id) & free)
    if not taken.execute():
        return None
    _close_begun(session_id)
    reserve(session_id)
    row = Session.select(Session, User).join(User).where(Session.id == session_id).get()
    return _session(row, _owner(row.user))


def let_go(session_id: str, instance_id: str, last_seq: int) -> None:
    held = (Session.id == session_id) & (Session.instance_id == instance_id)
    Session.update(instance_id=None, reserved_seq=last_seq).where(held).execute()


def reserve(session_id: str) -> int:
    Session.update(reserved_seq=Session.reserved_seq + RANGE).where(
        Session.id == session_id
    ).execute()
    reserved: int = Session.get_by_id(session_id).reserved_seq
    return reserved


def change(session_id: str, **fields: Any) -> None:
    Session.update(**fields).where(Session.id == session_id).execute()


def delete(session_id: str) -> None:
    Session.delete().where(Session.id == session_id).execute()


def add_turn(turn: TurnRow, title: str) -> None:
    now = milliseconds()
    Turn.create(
        session=turn.session_id,
        number=turn.number,
        uuid=turn.uuid,
        source=turn.source,
        prompt=turn.prompt,
        fresh=turn.fresh,
        created_at=now,
    )
    Session.update(last_turn=turn.number, last_active_at=now, title=title).where(
        Session.id == turn.session_id
    ).execute()


def turn_of_uuid(session_id: str, turn_uuid: str) -> TurnRow | None:
    row = Turn.get_or_none((Turn.session == session_id) & (Turn.uuid == turn_uuid))
    return _turn(row) if row else None


def was_answered(session_id: str) -> bool:
    """Old events are swept, but their turns are not."""
    said = (Event.session == session_id) & Event.type.in_(["text", "tool"])
    done = (Turn.session == session_id) & (Turn.outcome == "ok")
    return bool(Event.select().where(said).exists() or Turn.select().where(done).exists())


def queued(session_id: str) -> list[TurnRow]:
    waiting = (Turn.session == session_id) & (Turn.state == "queued")
    return [_turn(row) for row in Turn.select().where(waiting).order_by(Turn.number)]


def sessions_with_queue() -> list[tuple[str, Owner]]:
    """Sessions that nobody holds and that owe their owner a turn."""
    rows = (
        Session.select(Session, User)
        .join(User)
        .where(
            _held_by_nobody()
            & ~User.disabled
            & fn.EXISTS(
                Turn.select(Turn.number).where(
                    (Turn.session == Session.id) & (Turn.state == "queued")
                )
            )
        )
    )
    return [(row.id, _owner(row.user)) for row in rows]


def start_turn(turn: TurnRow, instance_id: str, cli_id: str) -> None:
    """The act that may be done only once: after it, the prompt is written."""
    holder = Session.select(Session.id).where(
        (Session.id == turn.session_id) & (Session.instance_id == instance_id)
    )
    waiting = (
        (Turn.session == turn.session_id)
        & (Turn.number == turn.number)
        & (Turn.state == "queued")
        & Turn.session.in_(holder)
    )
    started = Turn.update(state="started", started_at=milliseconds()).where(waiting).execute()
    if started != 1:
        raise conflict("This prompt is not this server's to run any more.")
    Session.update(cli_id=cli_id).where(Session.id == turn.session_id).execute()


def finish_turn(
    turn: TurnRow,
    outcome: str,
    events: Sequence[EventRow],
    usage: Sequence[dict[str, Any]],
) -> None:
    now = milliseconds()
    open_turn = (
        (Turn.session == turn.session_id)
        & (Turn.number == turn.number)
        & (Turn.state != "finished")
    )
    changed = {"state": "finished", "outcome": outcome, "finished_at": now}
    if Turn.update(**changed).where(open_turn).execute() != 1:
        return
    add_events(events)
    if usage:
        Usage.insert_many(usage).execute()
    cost = sum(row["cost_usd"] or 0.0 for row in usage)
    Session.update(cost_usd=Session.cost_usd + cost, last_active_at=now).where(
        Session.id == turn.session_id
    ).execute()


def usage_rows(
    owner: Owner, turn: TurnRow, result: Result, *, priced: bool
) -> list[dict[str, Any]]:
    """A row a model; the turn's duration is on the first, so that sums are right."""
    now = milliseconds()
    return [
        {
            "user": owner.id,
            "session_id": turn.session_id,
            "turn": turn.number,
            "model": spent.model,
            "input_tokens": spent.input_tokens,
            "output_tokens": spent.output_tokens,
            "cache_read_tokens": spent.cache_read_tokens,
            "cache_write_tokens": spent.cache_write_tokens,
            "cost_usd": spent.cost_usd if priced else None,
            "duration_ms": 0 if position else result.duration_ms,
            "at": now,
        }
        for position, spent in enumerate(result.spent or [Spent("", 0, 0, 0, 0, 0.0)])
    ]


def add_events(rows: Sequence[EventRow]) -> None:
    fields = [Event.session, Event.seq, Event.turn, Event.type, Event.at, Event.line]
    for start in range(0, len(rows), 100):
        # A write whose success was lost on its way here is done once more.
        events = Event.insert_many(rows[start : start + 100], fields=fields)
        events.on_conflict_ignore().execute()


def events(session_id: str, after: int, upto: int, turn: int | None) -> list[tuple[int, str]]:
    """A page of lines with their numbers, in order; of few lines when they are long."""
    wanted = (Event.session == session_id) & (Event.seq <= upto)
    if turn is not None:
        wanted &= Event.turn == turn
    query = Event.select(Event.seq, Event.line).order_by(Event.seq)
    page: list[tuple[int, str]] = []
    for rows in (4, 8, 16, 32, 64, 128):
        rest: Any = query.where(wanted & (Event.seq > after)).limit(rows).tuples()
        more = list(rest)
        page += more
        if len(more) < rows or sum(len(line) for _, line in more) > PAGE:
            break
        after = more[-1][0]
    return page


def recover(instance_ids: Sequence[str]) -> list[TurnRow]:
    """Bury dead servers and close what they had begun; of several recoveries, one does it."""
    Instance.delete().where(Instance.id.in_(instance_ids)).execute()
    left = Session.instance_id.is_null(False) & _held_by_nobody()
    cut_off = []
    for row in list(Session.select(Session.id).where(left).order_by(Session.id)):
        freed = Session.update(instance_id=None).where((Session.id == row.id) & left)
        if freed.execute():
            cut_off += _close_begun(row.id)
    return cut_off


def _held_by_nobody() -> Any:
    held: Any = Session.instance_id
    return held.is_null() | held.not_in(Instance.select(Instance.id))


def _close_begun(session_id: str) -> list[TurnRow]:
    """What ran when its server ended is not run again: its owner can see that it was cut off."""
    begun = (Turn.session == session_id) & (Turn.state == "started")
    turns = [_turn(row) for row in Turn.select().where(begun).order_by(Turn.number)]
    for turn in turns:
        _close_cut_off(turn, Session.get_by_id(session_id).reserved_seq)
    return turns


def _close_cut_off(turn: TurnRow, reserved: int) -> None:
    bodies = [("answered", fields) for fields in _withdrawn(turn)]
    bodies.append(("error", CUT_OFF))
    bodies.append(("done", done("interrupted", turn.session_id)))
    rows = event_rows(turn, reserved, bodies)
    finish_turn(turn, "interrupted", rows, [])
    change(turn.session_id, reserved_seq=reserved + len(rows))


def _withdrawn(turn: TurnRow) -> list[dict[str, Any]]:
    asks = open_asks(turn.session_id, turn.number)
    return [{"ask_id": ask_id, "decision": "deny", "by": "server"} for ask_id in asks]


def event_rows(
    turn: TurnRow, seq: int, bodies: Sequence[tuple[str, dict[str, Any]]]
) -> list[EventRow]:
    now = milliseconds()
    return [
        (
            turn.session_id,
            number,
            turn.number,
            kind,
            now,
            line(number, turn.number, kind, instant(now), fields).decode(),
        )
        for number, (kind, fields) in enumerate(bodies, seq + 1)
    ]


def open_asks(session_id: str, turn: int) -> list[str]:
    """Questions of that turn that nobody answered."""
    asked = (
        Event.select(Event.type, Event.line)
        .where((Event.session == session_id) & (Event.turn == turn))
        .where(Event.type.in_(["ask", "answered"]))
        .order_by(Event.seq)
    )
    pending: dict[str, None] = {}
    rows: Any = asked.tuples()
    for kind, text in rows:
        ask_id = orjson.loads(text)["ask_id"]
        pending.update({ask_id: None}) if kind == "ask" else pending.pop(ask_id, None)
    return list(pending)


def forget_events_before(instant: int) -> int:
    """Finished events that are older than they need be kept; at most some thousands at once."""
    old = Event.select(Event.session, Event.seq).where(Event.at < instant).limit(1000)
    rows: Any = old.tuples()
    gone = 0
    for session_id, seq in list(rows):
        gone += Event.delete().where((Event.session == session_id) & (Event.seq == seq)).execute()
    return gone


def ids() -> set[str]:
    return {row.id for row in Session.select(Session.id)}


def _session(row: Any, owner: Owner) -> SessionRow:
    return SessionRow(
        id=row.id,
        owner=owner,
        title=row.title,
        cwd=row.cwd,
        model=row.model,
        permission_mode=row.permission_mode,
        purpose=row.purpose,
        system_prompt=row.system_prompt,
        allowed_tools=orjson.loads(row.allowed_tools),
        max_turns=row.max_turns,
        cli_id=row.cli_id,
        last_turn=row.last_turn,
        reserved_seq=row.reserved_seq,
        cost_usd=row.cost_usd,
        created_at=row.created_at,
        last_active_at=row.last_active_at,
    )


def _turn(row: Turn) -> TurnRow:
    return TurnRow(
        session_id=row.session_id,  # type: ignore[attr-defined]
        number=row.number,
        uuid=row.uuid,
        source=row.source,
        prompt=row.prompt,
        fresh=row.fresh,
        state=row.state,
    )


def _owner(user: User) -> Owner:
    return Owner(id=user.id, username=user.username, uid=user.uid)
