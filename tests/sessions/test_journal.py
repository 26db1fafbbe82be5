"""A session's log: numbered, replayed from any number, whole through faults of the database."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from db import Database
from sessions import journal as journals
from sessions import store
from sessions.journal import LOW, Journal
from sessions.store import RANGE
from sessions.topics import BACKLOG
from tests.e2e.api import text_of
from tests.stored import opened, person, refuse_writes, session, soon, take_writes, turn

Event = dict[str, Any]


@pytest.fixture
async def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    monkeypatch.setattr(journals, "RETRY_SECONDS", 0.01)
    async with opened(f"sqlite:///{tmp_path}/test.db") as db:
        yield db


@pytest.fixture
async def log(db: Database) -> AsyncIterator[Journal]:
    made = await session(db, await person(db))
    log = Journal(db, made.id, 0, RANGE)
    log.tick()
    yield log
    await log.close(flush=False)


def events(batches: list[bytes]) -> list[Event]:
    return [json.loads(line) for line in b"".join(batches).splitlines()]


async def all_of(stream: AsyncIterator[bytes]) -> list[Event]:
    return events([batch async for batch in stream])


async def replay(log: Journal, after: int = 0, turn: int | None = None) -> list[Event]:
    return await all_of(log.read(after, turn=turn, follow=False))


def state(log: Journal) -> str:
    """In one word what its properties say, which change while nobody looks."""
    return "overfull" if log.overfull else "unsettled" if log.unsettled else "settled"


async def stored(db: Database, log: Journal) -> list[Event]:
    rows = await db.read(store.events, log._session_id, 0, 2**62, None)
    return [json.loads(line) for _, line in rows]


async def test_a_block_of_text_becomes_one_row_with_its_last_number(
    db: Database, log: Journal
) -> None:
    for piece in ("Hello ", "wide ", "world"):
        log.text(1, b"text", 0, piece)
    log.event(1, "tool", id="t")
    await log.settled()
    text, tool = await stored(db, log)
    assert (text["seq"], text["offset"], text["text"]) == (3, 0, "Hello wide world")
    assert (text["turn"], text["type"], text["block"]) == (1, "text", 0)
    assert (tool["seq"], tool["type"], tool["id"]) == (4, "tool", "t")
    assert text["at"].endswith("Z")


async def test_offsets_count_characters_and_go_on_over_rows(
    db: Database, log: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "SEGMENT", 4)
    pieces = ["\U0001f469", "ü\0", "abc", "d", "efghij", "", "k"]
    for piece in pieces:
        log.text(1, b"text", 0, piece)
    log.text(1, b"thinking", 1, "hm")
    log.text(2, b"text", 0, "anew")
    await log.settled()
    rows = await stored(db, log)
    assert text_of([row for row in rows if row["turn"] == 1]) == "".join(pieces)
    assert [row["offset"] for row in rows if row["turn"] == 1 and row["block"] == 0] == [0, 6, 13]
    assert [(row["offset"], row["text"]) for row in rows[-2:]] == [(0, "hm"), (0, "anew")]
    assert text_of([row for row in rows if row["turn"] == 2]) == "anew"


async def test_text_that_goes_on_after_an_event_keeps_its_offset(log: Journal) -> None:
    log.text(1, b"text", 0, "one ")
    log.event(1, "status", state="running")
    log.text(1, b"text", 0, "two")
    seen = await replay(log)
    assert [event["type"] for event in seen] == ["text", "status", "text"]
    assert seen[2]["offset"] == 4
    assert text_of(seen) == "one two"


async def test_a_reader_gets_rows_then_what_is_not_stored_then_what_is_live(
    db: Database, log: Journal
) -> None:
    log.event(1, "prompt", text="a")
    await log.settled()
    await refuse_writes(db)
    log.event(1, "tool", id="not stored")
    log.text(1, b"text", 0, "open ")
    stream = log.read(0, follow=True)
    log.text(1, b"text", 0, "live")
    log.event(1, "tool", id="live")
    await take_writes(db)
    log.topic.end()
    seen = await all_of(stream)
    assert [event["seq"] for event in seen] == [1, 2, 3, 4, 5]
    assert text_of(seen) == "open live"


async def test_a_reader_comes_back_in_the_middle_of_a_row(log: Journal) -> None:
    for piece in "abcdef":
        log.text(1, b"text", 0, piece)
    before = await replay(log)
    log.seal()
    await log.settled()
    for after in range(6):
        seen = await replay(log, after)
        assert [(event["seq"], event["text"]) for event in seen] == [(6, "abcdef")]
    assert await replay(log, 6) == []
    assert text_of(before) == "abcdef"


async def test_one_turns_reader_gets_no_other_turns(db: Database, log: Journal) -> None:
    for number in (1, 2, 1, 2):
        log.event(number, "tool", id=str(number))
    await log.settled()
    log.event(2, "tool", id="2")
    log.event(1, "tool", id="1")
    log.text(2, b"text", 0, "two")
    live = log.read(0, turn=1, follow=True)
    log.event(2, "done")
    log.text(1, b"text", 0, "one")
    log.topic.end_turn(1)
    log.text(1, b"text", 0, "late")
    seen = await all_of(live)
    assert [event["turn"] for event in seen] == [1, 1, 1, 1]
    assert [event["turn"] for event in await replay(log, turn=2)] == [2, 2, 2, 2, 2]


async def test_a_replay_of_thousands_of_events_is_in_order(log: Journal) -> None:
    for number in range(1500):
        log.event(1 + number % 3, "tool", id=str(number))
    seen = await replay(log)
    assert [event["seq"] for event in seen] == list(range(1, 1501))
    await log.settled()
    assert await replay(log) == seen
    assert [event["seq"] for event in await replay(log, 1490)] == list(range(1491, 1501))


# The database fails for a while


async def test_nothing_is_lost_while_the_database_takes_nothing(db: Database, log: Journal) -> None:
    await refuse_writes(db)
    live = log.read(0, follow=True)
    for number in range(600):
        log.event(1, "tool", id=str(number))
    log.text(1, b"text", 0, "words")
    settling = asyncio.create_task(log.settled())
    await soon(lambda: "readonly" in db.last_trouble)
    assert state(log) == "unsettled"
    assert not settling.done()
    assert len(await replay(log)) == 601
    await take_writes(db)
    await settling
    assert state(log) == "settled"
    log.topic.end()
    assert [event["seq"] for event in await all_of(live)] == list(range(1, 602))
    assert len(await replay(log, 300)) == 301


async def test_a_log_that_cannot_be_stored_says_when_it_is_too_much(
    db: Database, log: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "MOST_PENDING", 100_000)
    await refuse_writes(db)
    assert state(log) == "settled"
    for _ in range(11):
        log.event(1, "tool", id="x" * 10_000)
    assert state(log) == "overfull"
    await take_writes(db)
    await log.settled()
    assert state(log) == "settled"


async def test_events_that_can_never_be_stored_hold_up_nobody(db: Database, log: Journal) -> None:
    await db.run(store.delete, log._session_id)
    log.event(1, "tool", id="x")
    async with asyncio.timeout(5):
        await log.settled()


async def test_closing_stores_what_there_is_and_ends_every_reader(
    db: Database, log: Journal
) -> None:
    reader = log.read(0, follow=True)
    log.text(1, b"text", 0, "last words")
    await log.close(flush=True)
    assert text_of(await stored(db, log)) == "last words"
    assert text_of(await all_of(reader)) == "last words"
    assert text_of(await all_of(log.read(0, follow=True))) == "last words"


async def test_closing_gives_up_on_a_database_that_takes_nothing(
    db: Database, log: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "FLUSH_SECONDS", 0.05)
    await refuse_writes(db)
    log.event(1, "tool", id="x")
    async with asyncio.timeout(5):
        await log.close(flush=True)
    await take_writes(db)
    assert await stored(db, log) == []


# Numbers


async def test_numbers_run_short_before_the_range_ends_and_are_got_anew(
    db: Database, log: Journal
) -> None:
    near = Journal(db, log._session_id, RANGE - LOW - 1, RANGE)
    near.tick()
    starved = [near.starved]
    near.event(1, "tool", id="x")
    starved.append(near.starved)
    await db.run(store.reserve, log._session_id)
    await refuse_writes(db)
    reserving = asyncio.create_task(near.reserve())
    await soon(lambda: "readonly" in db.last_trouble)
    starved.append(near.starved)
    await take_writes(db)
    await reserving
    assert [*starved, near.starved] == [False, True, True, False]
    near.event(1, "tool", id="y")
    assert [event["seq"] for event in await replay(near)] == [RANGE - LOW, RANGE - LOW + 1]
    await near.close(flush=False)


# Order


async def test_what_is_stored_first_is_told_before_what_came_meanwhile(
    db: Database, log: Journal
) -> None:
    made = await turn(db, log._session_id)
    log.event(1, "tool", id="before")
    early = log.read(0, follow=True)
    async with log.stored_first(1, "done", {"outcome": "ok"}, None) as row:
        log.event(2, "status", state="queued")
        log.text(2, b"text", 0, "words")
        joined = log.read(0, follow=True)
        assert [event["seq"] for event in await replay(log)] == [1]
        await db.run(store.finish_turn, made, "ok", [row], [])
    log.event(2, "tool", id="after")
    log.topic.end()
    for stream in (early, joined):
        assert [event["seq"] for event in await all_of(stream)] == [1, 2, 3, 4, 5]
    await log.settled()
    assert [event["seq"] for event in await stored(db, log)] == [1, 2, 3, 4, 5]


async def test_what_could_not_be_stored_first_is_told_to_nobody(db: Database, log: Journal) -> None:
    reader = log.read(0, follow=True)
    with suppress(ValueError):
        async with log.stored_first(1, "done", {}, None):
            log.event(2, "tool", id="meanwhile")
            raise ValueError
    log.event(2, "tool", id="after")
    log.topic.end()
    assert [event["seq"] for event in await all_of(reader)] == [2, 3]
    assert [event["type"] for event in await replay(log)] == ["tool", "tool"]


async def test_several_writers_and_readers_at_once_keep_one_order(log: Journal) -> None:
    readers = [asyncio.create_task(all_of(log.read(0, follow=True))) for _ in range(5)]

    async def write(number: int) -> None:
        for count in range(50):
            log.event(number, "tool", id=f"{number}.{count}")
            await asyncio.sleep(0)
            if count % 10 == number:
                readers.append(asyncio.create_task(all_of(log.read(log.seq // 2, follow=True))))

    await asyncio.gather(*(write(number) for number in range(1, 5)))
    log.topic.end()
    whole, *others = await asyncio.gather(*readers)
    assert [event["seq"] for event in whole] == list(range(1, 201))
    for seen in others:
        assert seen == [event for event in whole if event["seq"] >= seen[0]["seq"]]


async def test_a_reader_that_lags_is_dropped_and_misses_nothing_when_it_comes_back(
    log: Journal,
) -> None:
    dropped: list[int] = []
    slow = log.read(0, follow=True, on_drop=lambda: dropped.append(1))
    log.text(1, b"text", 0, "begin ")
    seen = events([await anext(slow)])
    for _ in range(BACKLOG // 10_000 + 2):
        log.text(1, b"text", 0, "x" * 10_000)
    assert dropped == [1]
    rest = await all_of(slow)
    back = await replay(log, seen[-1]["seq"])
    whole = text_of(await replay(log))
    assert rest == []
    assert text_of([*seen, *back]) == whole
    assert len(whole) == 6 + 10_000 * (BACKLOG // 10_000 + 2)


async def test_a_reader_that_nobody_reads_is_forgotten(log: Journal) -> None:
    streams = [log.read(0, follow=True) for _ in range(3)]
    assert log.topic.followed
    streams.clear()
    assert not log.topic.followed
