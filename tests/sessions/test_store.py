"""What sessions keep, over both databases, function by function."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

from models import Event, Instance, Session, Turn, Usage, User

import orjson
import pytest
from peewee import IntegrityError

from db import Database
from errors import AppError
from sessions import store
from sessions.events import done
from sessions.messages import Result, Spent
from sessions.workspace import Owner
from tests.stored import add_turn, change, new_turn, opened, person, session, turn

HARD = "\U0001f469\u200d\U0001f680 \\u0000 ' \" % ? \n\r\t end"


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    async with opened(database_url) as db:
        yield db


@pytest.fixture
async def ann(db: Database) -> Owner:
    return await person(db, "ann", 20_000)


@pytest.fixture
async def bob(db: Database) -> Owner:
    return await person(db, "bob", 20_001)


def alive(*names: str) -> None:
    for name in names:
        Instance.create(id=name, host="h", process="1", started_at=0, heartbeat_at=0)


def result(**models: float) -> Result:
    spent = [Spent(model, 10, 20, 30, 40, cost) for model, cost in models.items()]
    return Result("success", False, "ok", [], 1, 1234, {}, spent, "completed", None, "cli")


def lines(rows: list[tuple[int, str]]) -> Iterator[dict[str, Any]]:
    for _, line in rows:
        yield orjson.loads(line)


async def log_of(db: Database, session_id: str) -> list[dict[str, Any]]:
    return list(lines(await db.read(store.events, session_id, 0, 2**62, None)))


# Sessions


async def test_a_session_comes_back_as_it_was_made(db: Database, ann: Owner) -> None:
    made = await session(
        db,
        ann,
        title=HARD,
        cwd="/users/ann/ünï",
        model="glm-5.1:cloud",
        permission_mode="plan",
        system_prompt=HARD * 1000,
        allowed_tools=["Bash(ls:*)", HARD],
        max_turns=7,
    )
    found = await db.read(store.find, ann, made.id)
    assert found == made
    assert found.allowed_tools == ["Bash(ls:*)", HARD]
    assert (found.purpose, found.cli_id, found.last_turn, found.cost_usd) == ("chat", None, 0, 0.0)
    assert found.created_at == found.last_active_at > 1_700_000_000_000


@pytest.mark.parametrize("name", ["", "nobody", "\0", "\U0001f469", "' OR 1=1 --"])
async def test_a_session_that_is_none_is_not_found(db: Database, ann: Owner, name: str) -> None:
    await session(db, ann)
    assert await db.read(store.find, ann, name) is None


async def test_another_users_session_is_not_found(db: Database, ann: Owner, bob: Owner) -> None:
    made = await session(db, ann)
    assert await db.read(store.find, bob, made.id) is None


async def test_a_list_has_the_newest_activity_first_page_by_page(
    db: Database, ann: Owner, bob: Owner
) -> None:
    made = [await session(db, ann, title=str(number)) for number in range(7)]
    await session(db, bob, title="another's")
    for number, one in enumerate(made):
        # Two of each moment, so that a page may end between them.
        await change(db, one.id, last_active_at=number // 2)
    seen, after = [], None
    while page := await db.read(store.of_user, ann, 2, after):
        seen += page
        after = (page[-1].last_active_at, page[-1].id)
    assert [one.last_active_at for one in seen] == [3, 2, 2, 1, 1, 0, 0]
    assert {one.title for one in seen} == set("0123456")
    assert len({one.id for one in seen}) == 7


async def test_ids_are_those_of_everybody(db: Database, ann: Owner, bob: Owner) -> None:
    made = {(await session(db, ann)).id, (await session(db, bob)).id}
    assert await db.read(store.ids) == made


async def test_a_deleted_session_takes_its_text_along_and_leaves_its_cost(
    db: Database, ann: Owner
) -> None:
    made, other = await session(db, ann), await session(db, ann)
    for one in (made, other):
        prompt = await turn(db, one.id)
        row = (one.id, 1, 1, "done", 1, "{}\n")
        usage = store.usage_rows(ann, prompt, result(opus=0.5), priced=True)
        await db.run(store.finish_turn, prompt, "ok", [row], usage)
    await db.run(store.delete, made.id)

    def kept() -> list[int]:
        return [table.select().count() for table in (Session, Turn, Event, Usage)]

    assert await db.read(kept) == [1, 1, 1, 2]
    assert await db.read(store.find, ann, made.id) is None


async def test_change_touches_one_session(db: Database, ann: Owner) -> None:
    one, other = await session(db, ann), await session(db, ann)
    await change(db, one.id, cli_id="x", allowed_tools='["Bash"]')
    changed = await db.read(store.find, ann, one.id)
    assert changed
    assert (changed.cli_id, changed.allowed_tools) == ("x", ["Bash"])
    assert await db.read(store.find, ann, other.id) == other


# Turns


async def test_a_prompt_comes_back_as_it_was_given(db: Database, ann: Owner) -> None:
    made = await session(db, ann)
    given = await turn(db, made.id, prompt=HARD, source="telegram", fresh=True)
    assert await db.read(store.turn_of_uuid, made.id, given.uuid) == given
    assert await db.read(store.queued, made.id) == [given]
    found = await db.read(store.find, ann, made.id)
    assert found
    assert (found.title, found.last_turn) == ("Title", 1)


async def test_a_prompt_of_eight_mebibytes_comes_back(db: Database, ann: Owner) -> None:
    prompt = "\U0001f469 ünï " * (8 * 1024 * 1024 // 11)
    assert 8_300_000 < len(prompt.encode()) <= 8 * 1024 * 1024
    made = await session(db, ann)
    await turn(db, made.id, prompt=prompt)
    [queued] = await db.read(store.queued, made.id)
    assert queued.prompt == prompt


async def test_the_same_uuid_is_accepted_once_a_session(db: Database, ann: Owner) -> None:
    one, other = await session(db, ann), await session(db, ann)
    given = await turn(db, one.id)
    with pytest.raises(IntegrityError):
        await turn(db, one.id, 2, uuid=given.uuid)
    await turn(db, other.id, uuid=given.uuid)
    assert await db.read(store.turn_of_uuid, one.id, "unknown") is None


async def test_prompts_wait_in_the_order_they_came(db: Database, ann: Owner) -> None:
    made = await session(db, ann)
    for number in (2, 3, 1):
        await turn(db, made.id, number)
    await db.run(alive, "one")
    await db.run(store.hold, made.id, "one")
    [first, *_] = await db.read(store.queued, made.id)
    await db.run(store.start_turn, first, "one", "cli")
    assert [row.number for row in await db.read(store.queued, made.id)] == [2, 3]


async def test_a_prompt_starts_once_and_only_with_its_holder(db: Database, ann: Owner) -> None:
    made = await session(db, ann)
    prompt = await turn(db, made.id)
    await db.run(alive, "one", "two")
    await db.run(store.hold, made.id, "one")
    with pytest.raises(AppError, match="not this server's"):
        await db.run(store.start_turn, prompt, "two", "stray")
    await db.run(store.start_turn, prompt, "one", "cli-1")
    with pytest.raises(AppError, match="not this server's") as raised:
        await db.run(store.start_turn, prompt, "one", "cli-2")
    assert raised.value.code == "conflict"
    found = await db.read(store.find, ann, made.id)
    assert found
    assert found.cli_id == "cli-1"


async def test_a_cancelled_prompt_does_not_start(db: Database, ann: Owner) -> None:
    made = await session(db, ann)
    prompt = await turn(db, made.id)
    await db.run(alive, "one")
    await db.run(store.hold, made.id, "one")
    await db.run(store.finish_turn, prompt, "cancelled", [], [])
    with pytest.raises(AppError):
        await db.run(store.start_turn, prompt, "one", "cli")


async def test_a_turn_is_finished_once_with_its_costs(db: Database, ann: Owner) -> None:
    made = await session(db, ann)
    prompt = await turn(db, made.id)
    spent = result(opus=0.5, haiku=0.25)
    for _ in range(2):  # the answer to the first was lost on its way
        rows = store.event_rows(prompt, 7, [("done", done("ok", made.id))])
        usage = store.usage_rows(ann, prompt, spent, priced=True)
        await db.run(store.finish_turn, prompt, "ok", rows, usage)
    [event] = await log_of(db, made.id)
    assert (event["seq"], event["turn"], event["type"]) == (8, 1, "done")
    assert event["session_id"] == made.id
    found = await db.read(store.find, ann, made.id)
    assert found
    assert found.cost_usd == 0.75
    used: Any = await db.read(lambda: list(Usage.select().order_by(Usage.cost_usd).dicts()))
    assert [(row["model"], row["cost_usd"]) for row in used] == [("haiku", 0.25), ("opus", 0.5)]
    figures = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
    assert [used[0][name] for name in figures] == [10, 20, 30, 40]
    assert (used[0]["user"], used[0]["session_id"]) == (ann.id, made.id)
    assert sorted(row["duration_ms"] for row in used) == [0, 1234]


async def test_a_turn_that_reached_no_model_has_a_row_too(db: Database, ann: Owner) -> None:
    made = await session(db, ann)
    prompt = await turn(db, made.id)
    usage = store.usage_rows(ann, prompt, result(), priced=True)
    await db.run(store.finish_turn, prompt, "interrupted", [], usage)
    row: Any = await db.read(Usage.get)
    assert (row.model, row.input_tokens, row.cost_usd, row.duration_ms) == ("", 0, 0.0, 1234)


async def test_an_invented_price_is_not_kept(db: Database, ann: Owner) -> None:
    made = await session(db, ann)
    prompt = await turn(db, made.id)
    usage = store.usage_rows(ann, prompt, result(glm=9.0), priced=False)
    await db.run(store.finish_turn, prompt, "ok", [], usage)
    assert await db.read(lambda: Usage.get().cost_usd) is None
    found = await db.read(store.find, ann, made.id)
    assert found
    assert found.cost_usd == 0.0


async def test_sessions_that_owe_a_turn_are_those_nobody_holds(
    db: Database, ann: Owner, bob: Owner
) -> None:
    owing = await session(db, ann)
    held, buried, disabled, idle = [await session(db, ann) for _ in range(4)]
    disabled = await session(db, bob)
    for one in (owing, held, buried, disabled):
        await turn(db, one.id)
        await turn(db, one.id, 2)
    await db.run(alive, "one", "two")
    await db.run(store.hold, held.id, "one")
    await db.run(store.hold, buried.id, "two")
    await db.run(lambda: Instance.delete().where(Instance.id == "two").execute())
    await db.run(lambda: User.update(disabled=True).where(User.id == bob.id).execute())
    found = await db.read(store.sessions_with_queue)
    assert sorted(found, key=str) == sorted([(owing.id, ann), (buried.id, ann)], key=str)
    assert idle.id not in dict(found)


# Events


async def test_events_come_back_in_pages_in_order(db: Database, ann: Owner) -> None:
    made, other = await session(db, ann), await session(db, ann)
    rows = [(made.id, seq, seq % 2, "text", 1, f"{seq} {HARD}\n") for seq in range(1, 451)]
    await db.run(store.add_events, rows)
    await db.run(store.add_events, [(other.id, 3, 1, "text", 1, "another's\n")])
    seen: list[tuple[int, str]] = []
    while page := await db.read(store.events, made.id, seen[-1][0] if seen else 0, 449, None):
        seen += page
    assert seen == [(seq, line) for _, seq, _, _, _, line in rows[:449]]
    odd = await db.read(store.events, made.id, 100, 110, 1)
    assert [seq for seq, _ in odd] == [101, 103, 105, 107, 109]


async def test_a_page_has_few_events_when_they_are_long(db: Database, ann: Owner) -> None:
    made = await session(db, ann)
    long = "x" * 256 * 1024
    await db.run(store.add_events, [(made.id, seq, 1, "text", 1, long) for seq in range(1, 41)])
    sizes, after = [], 0
    while page := await db.read(store.events, made.id, after, 2**62, None):
        sizes.append(len(page))
        after = page[-1][0]
    assert (sum(sizes), max(sizes)) == (40, 4)
    await db.run(store.add_events, [(made.id, seq, 1, "text", 1, "x") for seq in range(41, 500)])
    assert len(await db.read(store.events, made.id, 40, 2**62, None)) > 200


async def test_an_event_of_eight_mebibytes_with_nul_and_emoji_comes_back(
    db: Database, ann: Owner
) -> None:
    made = await session(db, ann)
    text = "\0\U0001f469\ufffd" * (8 * 1024 * 1024 // 8)
    prompt = new_turn(made.id)
    rows = store.event_rows(prompt, 0, [("text", {"text": text})])
    await db.run(store.add_events, rows)
    [event] = await log_of(db, made.id)
    assert event["text"] == text


async def test_events_stored_twice_are_there_once(db: Database, ann: Owner) -> None:
    """A commit whose answer was lost is tried again."""
    made = await session(db, ann)
    rows = [(made.id, seq, 1, "text", 1, f"{seq}\n") for seq in range(1, 251)]
    await db.run(store.add_events, rows[:150])
    await db.run(store.add_events, rows)
    stored = await db.read(store.events, made.id, 200, 2**62, None)
    assert stored == [(seq, f"{seq}\n") for seq in range(201, 251)]
    assert await db.read(lambda: Event.select().count()) == 250


async def test_events_of_no_session_are_refused(db: Database) -> None:
    with pytest.raises(IntegrityError):
        await db.run(store.add_events, [("gone", 1, 1, "text", 1, "x\n")])


async def test_event_rows_are_numbered_on_from_the_last(db: Database, ann: Owner) -> None:
    made = await session(db, ann)
    prompt = new_turn(made.id, 4)
    rows = store.event_rows(prompt, 41, [("error", {"code": "x"}), ("done", {})])
    assert [row[:4] for row in rows] == [(made.id, 42, 4, "error"), (made.id, 43, 4, "done")]
    first = orjson.loads(rows[0][5])
    assert (first["seq"], first["turn"], first["type"], first["code"]) == (42, 4, "error", "x")
    assert first["at"].endswith("Z")


async def test_open_questions_are_those_without_an_answer(db: Database, ann: Owner) -> None:
    made = await session(db, ann)
    prompt, later = await turn(db, made.id), await turn(db, made.id, 2)
    asked = [("ask", {"ask_id": name}) for name in "abc"]
    rows = store.event_rows(prompt, 0, [*asked, ("answered", {"ask_id": "b"})])
    rows += store.event_rows(later, 10, [("ask", {"ask_id": "d"}), ("answered", {"ask_id": "x"})])
    await db.run(store.add_events, rows)
    assert await db.read(store.open_asks, made.id, 1) == ["a", "c"]
    assert await db.read(store.open_asks, made.id, 2) == ["d"]


async def test_a_session_was_answered_when_it_has_words_or_tools(db: Database, ann: Owner) -> None:
    made, other = await session(db, ann), await session(db, ann)
    for one, kind in ((made, "prompt"), (other, "text")):
        await db.run(store.add_events, store.event_rows(new_turn(one.id), 0, [(kind, {})]))
    assert not await db.read(store.was_answered, made.id)
    assert await db.read(store.was_answered, other.id)


async def test_old_events_are_forgotten_some_at_a_time(db: Database, ann: Owner) -> None:
    made = await session(db, ann)
    rows = [(made.id, seq, 1, "text", seq, f"{seq}\n") for seq in range(1, 1501)]
    await db.run(store.add_events, rows)
    gone = [await db.run(store.forget_events_before, 1401) for _ in range(3)]
    assert gone == [1000, 400, 0]
    left = await db.read(store.events, made.id, 0, 2**62, None)
    assert [seq for seq, _ in left] == list(range(1401, 1501))


async def test_a_failed_write_leaves_no_half_of_it(db: Database, ann: Owner) -> None:
    made = await session(db, ann)
    prompt = await turn(db, made.id)
    rows = [*store.event_rows(prompt, 0, [("done", {})]), ("gone", 1, 1, "x", 1, "")]
    with pytest.raises(IntegrityError):
        await db.run(store.finish_turn, prompt, "ok", rows, [])
    assert await log_of(db, made.id) == []
    assert await db.read(store.queued, made.id) == [prompt]
    with pytest.raises(IntegrityError):
        await db.run(add_turn, made.id, 1)  # a number that is taken
    found = await db.read(store.find, ann, made.id)
    assert found
    assert found.last_turn == 1
