"""Who is alive: heartbeats, by the clock that is handed in, and processes that have gone."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from models import Instance

import pytest

from db import Database
from instances import BEAT_SECONDS, DEAD_SECONDS, Instances
from tests.postgres import new_database
from tests.stored import opened, until

JOIN = """
import asyncio, sys, time
from db import Database
from instances import Instances
async def join():
    instances = Instances(Database(sys.argv[1]), time.time)
    await instances.join()
    print(instances.id, flush=True)
    await asyncio.sleep(1000)
asyncio.run(join())
"""


class Clock:
    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    async with opened(database_url) as db:
        yield db


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[tuple[Database, str]]:
    with new_database(postgres_url) as url:
        async with opened(url) as db:
            yield db, url


async def beat_of(db: Database, instance: Instances) -> int:
    return await db.read(lambda: Instance.get_by_id(instance.id).heartbeat_at)


async def elsewhere(db: Database, instance: Instances) -> None:
    """As if it ran where its process cannot be seen."""
    mine = Instance.id == instance.id
    await db.run(lambda: Instance.update(host="another machine").where(mine).execute())


async def test_a_server_beats_when_it_is_time(db: Database, clock: Clock) -> None:
    one = Instances(db, clock)
    assert await one.join() == []
    joined = await beat_of(db, one)
    assert joined == clock.now * 1000
    clock.now += BEAT_SECONDS - 0.1
    await one.step(clock.now)
    assert await beat_of(db, one) == joined
    clock.now += 0.2
    await one.step(clock.now)
    assert await beat_of(db, one) == clock.now * 1000


async def test_a_clock_that_is_put_back_does_not_silence_a_server(
    db: Database, clock: Clock
) -> None:
    one = Instances(db, clock)
    await one.join()
    clock.now -= 3600
    await one.step(clock.now)
    assert await beat_of(db, one) == clock.now * 1000


async def test_a_server_that_leaves_is_nobodys_to_bury(db: Database, clock: Clock) -> None:
    one = Instances(db, clock)
    await one.join()
    await one.leave()
    assert await Instances(db, clock).join() == []
    clock.now += BEAT_SECONDS
    assert await one.step(clock.now) == [one.id]


async def test_a_server_that_was_buried_is_told_its_own_id(db: Database, clock: Clock) -> None:
    one = Instances(db, clock)
    await one.join()
    await db.run(lambda: Instance.delete().execute())
    clock.now += BEAT_SECONDS
    assert await one.step(clock.now) == [one.id]
    await one.join()
    clock.now += BEAT_SECONDS
    assert await one.step(clock.now) == []


async def test_a_server_is_overdue_before_others_take_it_for_dead(
    postgres: tuple[Database, str], clock: Clock
) -> None:
    db, _ = postgres
    one = Instances(db, clock)
    await one.join()
    overdue = []
    for seconds in (DEAD_SECONDS - BEAT_SECONDS, BEAT_SECONDS - 1):
        clock.now += seconds
        overdue.append(one.overdue)
    assert overdue == [False, True]


async def test_a_server_that_slept_alone_is_not_overdue(tmp_path: Path, clock: Clock) -> None:
    """Nobody can have taken its place: a laptop that was closed goes on with its turns."""
    async with opened(f"sqlite:///{tmp_path}/test.db") as db:
        one = Instances(db, clock)
        await one.join()
        clock.now += 3600
        assert not one.overdue
        assert await one.step(clock.now) == []


async def test_on_sqlite_whoever_was_there_before_is_dead(tmp_path: Path, clock: Clock) -> None:
    async with opened(f"sqlite:///{tmp_path}/test.db") as db:
        one = Instances(db, clock)
        await one.join()
        assert await Instances(db, clock).join() == [one.id]


async def test_silence_of_thirty_seconds_is_death(
    postgres: tuple[Database, str], clock: Clock
) -> None:
    db, _ = postgres
    one, two = Instances(db, clock), Instances(db, clock)
    await one.join()
    await elsewhere(db, one)
    clock.now += DEAD_SECONDS
    assert await two.join() == []
    clock.now += BEAT_SECONDS
    assert await two.step(clock.now) == [one.id]


async def test_a_process_that_is_gone_here_need_not_be_waited_for(
    postgres: tuple[Database, str], clock: Clock
) -> None:
    db, url = postgres
    command = [sys.executable, "-W", "error", "-c", JOIN, url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    name = process.stdout.readline().strip()
    watch = Instances(db, clock)  # whose time is long before that beat: only the process can tell
    assert await watch.join() == []
    process.kill()
    until(
        lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    )
    clock.now += BEAT_SECONDS
    # It has ended, although nobody has counted it yet.
    assert await watch.step(clock.now) == [name]
    process.wait()
    process.stdout.close()
    clock.now += BEAT_SECONDS
    assert await watch.step(clock.now) == [name]


async def test_a_number_that_another_process_has_now_does_not_keep_a_server_alive(
    postgres: tuple[Database, str], clock: Clock
) -> None:
    db, _ = postgres
    one = Instances(db, clock)
    await one.join()
    assert await Instances(db, clock).join() == []
    earlier = f"{os.getpid()} 1"
    await db.run(lambda: Instance.update(process=earlier).execute())
    two = Instances(db, clock)
    assert one.id in await two.join()


async def test_the_processes_of_another_place_are_not_looked_for_here(
    postgres: tuple[Database, str], clock: Clock
) -> None:
    """Two containers may share a host's name, and have different processes."""
    db, _ = postgres
    one = Instances(db, clock)
    await one.join()
    await elsewhere(db, one)
    await db.run(lambda: Instance.update(process="999999999 1").execute())
    assert await Instances(db, clock).join() == []
