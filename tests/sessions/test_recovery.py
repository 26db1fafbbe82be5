"""Who holds a session, and what becomes of it when its server is killed with `kill -9`."""

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models import Instance

import orjson
import psycopg
import pytest

from db import Database
from instances import BEAT_SECONDS, DEAD_SECONDS, Instances
from sessions import store
from sessions.store import RANGE
from sessions.workspace import Owner
from tests.postgres import new_database
from tests.stored import add_turn, opened, person, session, soon, turn

WRITER = Path(__file__).with_name("doomed_writer.py")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    async with opened(database_url) as db:
        yield db


@pytest.fixture
async def ann(db: Database) -> Owner:
    return await person(db, "ann")


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[tuple[Database, str]]:
    with new_database(postgres_url) as url:
        async with opened(url) as db:
            yield db, url


async def log_of(db: Database, session_id: str) -> list[dict[str, Any]]:
    events, last = [], 0
    while page := await db.read(store.events, session_id, last, 2**62, None):
        events += [orjson.loads(line) for _, line in page]
        last = page[-1][0]
    return events


def alive(*names: str) -> None:
    for name in names:
        Instance.create(id=name, host="h", process="1", started_at=0, heartbeat_at=0)


async def begin(db: Database, session_id: str, server: str, number: int = 1) -> store.TurnRow:
    prompt = await turn(db, session_id, number)
    await db.run(store.hold, session_id, server)
    await db.run(store.start_turn, prompt, server, "cli")
    return prompt


# Who holds a session


async def test_a_held_session_is_refused_to_others_until_it_is_let_go(
    db: Database, ann: Owner
) -> None:
    made = await session(db, ann)
    await db.run(alive, "one", "two")
    held = await db.run(store.hold, made.id, "one")
    assert held
    assert (held.owner, held.reserved_seq) == (ann, RANGE)
    assert await db.run(store.hold, made.id, "two") is None
    await db.run(store.let_go, made.id, "two", 5)  # not its to let go
    assert await db.run(store.hold, made.id, "two") is None
    await db.run(store.let_go, made.id, "one", 5)
    taken = await db.run(store.hold, made.id, "two")
    assert taken
    assert taken.reserved_seq == 5 + RANGE


async def test_a_session_of_a_buried_server_can_be_taken(db: Database, ann: Owner) -> None:
    made = await session(db, ann)
    await db.run(alive, "one", "two")
    await db.run(store.hold, made.id, "one")
    await db.run(lambda: Instance.delete().where(Instance.id == "one").execute())
    taken = await db.run(store.hold, made.id, "two")
    assert taken
    assert taken.reserved_seq == 2 * RANGE


async def test_of_several_servers_that_want_a_session_one_gets_it(db: Database, ann: Owner) -> None:
    made = await session(db, ann)
    names = [f"server-{number}" for number in range(4)]
    await db.run(alive, *names)
    taken = await asyncio.gather(*(db.run(store.hold, made.id, name) for name in names))
    assert sum(row is not None for row in taken) == 1


async def test_a_session_that_is_gone_cannot_be_held(db: Database) -> None:
    await db.run(alive, "one")
    assert await db.run(store.hold, "gone", "one") is None


async def test_whoever_takes_a_session_finds_what_was_running_closed(
    db: Database, ann: Owner
) -> None:
    """Its server let it go or was buried without closing its turn, which nobody runs now."""
    made = await session(db, ann)
    await db.run(alive, "one", "two")
    await db.run(store.hold, made.id, "one")
    prompt = await turn(db, made.id)
    await db.run(store.start_turn, prompt, "one", "cli")
    await db.run(store.let_go, made.id, "one", 17)
    taken = await db.run(store.hold, made.id, "two")
    log = await log_of(db, made.id)
    assert [event["type"] for event in log] == ["error", "done"]
    assert [event["seq"] for event in log] == [18, 19]
    assert taken
    assert taken.reserved_seq == 19 + RANGE


async def test_numbers_are_reserved_in_ranges_that_never_overlap(db: Database, ann: Owner) -> None:
    made = await session(db, ann)
    ends = await asyncio.gather(*(db.run(store.reserve, made.id) for _ in range(10)))
    assert sorted(ends) == [RANGE * count for count in range(1, 11)]


# Killed


@contextmanager
def doomed(url: str, session_id: str, what: str) -> Iterator[Iterator[list[str]]]:
    """A server that is killed at the end; what it says, word by word."""
    command = [sys.executable, str(WRITER), url, session_id, what]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        yield (line.split() for line in process.stdout)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def queue_up(url: str, prompts: int) -> str:
    async with opened(url) as db:
        made = await session(db, await person(db))

        def queue() -> None:
            for number in range(1, prompts + 1):
                add_turn(made.id, number)

        await db.run(queue)
        return made.id


async def start_again(db: Database) -> list[store.TurnRow]:
    dead = await Instances(db, time.time).join()
    assert len(dead) == 1
    return await db.run(store.recover, dead)


@pytest.mark.parametrize("what", ["idle", "asking", "writing"])
async def test_what_a_kill_cut_off_is_told_and_not_run_again(database_url: str, what: str) -> None:
    session_id = await queue_up(database_url, 3)
    with doomed(database_url, session_id, what) as said:
        used = int(next(said)[2])
        if what == "writing":
            used = max(int(next(said)[2]) for _ in range(5))
    async with opened(database_url) as db:
        [cut_off] = await start_again(db)
        log = await log_of(db, session_id)
        waiting = await db.read(store.queued, session_id)
        owing = await db.read(store.sessions_with_queue)
    assert (cut_off.number, cut_off.state) == (1, "started")
    kinds = [event["type"] for event in log if event["type"] != "tool"]
    assert kinds == [*(["ask", "answered"] if what == "asking" else []), "error", "done"]
    assert log[-1]["outcome"] == "interrupted"
    assert log[-2]["code"] == "server_restarted"
    assert log[-2]["seq"] > used
    assert [row.number for row in waiting] == [2, 3]
    assert [one for one, _ in owing] == [session_id]


async def test_an_open_question_is_answered_for_its_owner(database_url: str) -> None:
    session_id = await queue_up(database_url, 1)
    with doomed(database_url, session_id, "asking") as said:
        next(said)
    async with opened(database_url) as db:
        await start_again(db)
        answered = next(e for e in await log_of(db, session_id) if e["type"] == "answered")
    assert (answered["ask_id"], answered["decision"], answered["by"]) == ("a", "deny", "server")


async def test_numbers_go_on_above_everything_that_was_ever_used(database_url: str) -> None:
    session_id = await queue_up(database_url, 5)
    used = 0
    for _ in range(3):
        with doomed(database_url, session_id, "writing") as said:
            seen = [int(next(said)[2]) for _ in range(4)]
        assert min(seen) >= used
        used = max(seen)
        async with opened(database_url) as db:
            dead = await Instances(db, time.time).join()
            await db.run(store.recover, dead)
            log = await log_of(db, session_id)
            assert log[-1]["seq"] > used
            used = log[-1]["seq"]
            await db.run(lambda: Instance.delete().execute())
    numbers = [event["seq"] for event in log]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("heard", [1, 6, 17])
async def test_a_kill_at_any_moment_leaves_one_done_for_each_prompt(
    database_url: str, heard: int
) -> None:
    session_id = await queue_up(database_url, 50)
    with doomed(database_url, session_id, "finishing") as said:
        for _ in range(heard):
            next(said)
    async with opened(database_url) as db:
        cut_off = await start_again(db)
        log = await log_of(db, session_id)
        waiting = await db.read(store.queued, session_id)
        again = await db.run(store.recover, [])
    assert len(cut_off) <= 1
    assert again == []
    ended = Counter(event["turn"] for event in log if event["type"] == "done")
    assert set(ended.values()) <= {1}
    assert sorted([*ended, *(row.number for row in waiting)]) == list(range(1, 51))
    interrupted = [event["turn"] for event in log if event.get("outcome") == "interrupted"]
    assert interrupted == [row.number for row in cut_off]


async def test_a_session_that_was_cut_off_can_be_taken_and_gone_on_with(database_url: str) -> None:
    session_id = await queue_up(database_url, 2)
    with doomed(database_url, session_id, "writing") as said:
        used = int(next(said)[2])
    async with opened(database_url) as db:
        await start_again(db)
        await db.run(alive, "next")
        held = await db.run(store.hold, session_id, "next")
        assert held
        assert held.cli_id == "cli"
        assert held.reserved_seq - RANGE >= used
        [prompt] = await db.read(store.queued, session_id)
        await db.run(store.start_turn, prompt, "next", "cli")


# Several servers at once


async def test_recovery_by_several_at_once_happens_once(db: Database, ann: Owner) -> None:
    made = [await session(db, ann) for _ in range(5)]
    await db.run(alive, "dead")
    for one in made:
        await begin(db, one.id, "dead")
    closed = await asyncio.gather(*(db.run(store.recover, ["dead"]) for _ in range(4)))
    assert sorted(turn.session_id for turns in closed for turn in turns) == sorted(
        one.id for one in made
    )
    for one in made:
        kinds = [event["type"] for event in await log_of(db, one.id)]
        assert kinds == ["error", "done"]


async def test_two_recoveries_in_the_middle_of_each_other_close_a_turn_once(
    postgres: tuple[Database, str],
) -> None:
    db, url = postgres
    made = await session(db, await person(db))
    await db.run(alive, "dead")
    await begin(db, made.id, "dead")
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with psycopg.connect(url) as held, psycopg.connect(url, autocommit=True) as observer:
        held.execute("SELECT 1 FROM sessions FOR UPDATE")
        both = [asyncio.create_task(db.run(store.recover, ["dead"])) for _ in range(2)]
        await soon(lambda: observer.execute(waiting).fetchone() == (2,))
        held.rollback()
        closed = await asyncio.gather(*both)
    assert sorted(len(turns) for turns in closed) == [0, 1]
    assert [event["type"] for event in await log_of(db, made.id)] == ["error", "done"]


async def test_a_recovery_does_not_take_numbers_back_from_the_next_holder(
    postgres: tuple[Database, str],
) -> None:
    db, _ = postgres
    made = await session(db, await person(db))
    await db.run(alive, "dead", "next")
    await begin(db, made.id, "dead")
    recoveries = [db.run(store.recover, ["dead"]) for _ in range(3)]
    taking = [db.run(store.hold, made.id, "next") for _ in range(3)]
    await asyncio.gather(*recoveries, *taking)
    held = await db.run(store.hold, made.id, "next")
    assert held
    log = await log_of(db, made.id)
    assert log[-1]["seq"] <= held.reserved_seq - RANGE


async def test_a_living_servers_turns_are_left_alone_until_it_falls_silent(
    postgres: tuple[Database, str],
) -> None:
    db, _ = postgres
    clock = Clock()
    one, two = Instances(db, clock), Instances(db, clock)
    await one.join()
    made = await session(db, await person(db))
    await begin(db, made.id, one.id)
    assert await two.join() == []
    clock.now += DEAD_SECONDS
    assert await two.step(clock.now) == []
    assert await db.run(store.recover, []) == []
    assert await db.run(store.hold, made.id, two.id) is None

    clock.now += BEAT_SECONDS
    dead = await two.step(clock.now)
    assert dead == [one.id]
    [cut_off] = await db.run(store.recover, dead)
    assert cut_off.session_id == made.id
    assert await db.run(store.hold, made.id, two.id)


async def test_a_server_that_others_buried_notices_and_comes_back(
    postgres: tuple[Database, str],
) -> None:
    db, _ = postgres
    clock = Clock()
    one, two = Instances(db, clock), Instances(db, clock)
    await one.join()
    await two.join()
    made = await session(db, await person(db))
    prompt = await begin(db, made.id, one.id)
    clock.now += DEAD_SECONDS + BEAT_SECONDS
    await db.run(store.recover, await two.step(clock.now))
    # What it says of a turn that was closed in its absence comes too late.
    late = store.event_rows(prompt, 500, [("done", {"outcome": "ok"})])
    await db.run(store.finish_turn, prompt, "ok", late, [])
    assert await one.step(clock.now) == [one.id]
    assert await one.join() == []
    assert await two.step(clock.now + BEAT_SECONDS) == []
    outcomes = [event.get("outcome") for event in await log_of(db, made.id)]
    assert outcomes == [None, "interrupted"]
