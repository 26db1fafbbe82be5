"""Whatever happens in whatever order: every reader, from any number on, has the same text."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db import Database
from sessions import journal as journals
from sessions import store
from sessions.journal import Journal
from sessions.workspace import Owner
from tests.e2e.api import text_of
from tests.stored import new_turn, person, session

Event = dict[str, Any]
WORDS = ["a", "", "\U0001f469", "ü\0", "seven..", "\n", "x" * 50]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, Owner]]:
    db = Database(f"sqlite:///{tmp_path_factory.mktemp('journal')}/test.db")
    asyncio.run(db.migrate())
    yield db, asyncio.run(person(db))
    asyncio.run(db.close())


@pytest.fixture(scope="module", autouse=True)
def short_segments() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journals, "SEGMENT", 12)
        yield


@dataclass
class Watcher:
    """A reader that has had everything up to `after`, and reads on in its own time."""

    after: int
    turn: int | None
    task: asyncio.Task[list[Event]]


@dataclass
class Scene:
    """The log, and what it ought to tell."""

    db: Database
    session_id: str
    log: Journal
    turn: int = 1
    block: int = 0
    offset: int = 0
    told: list[Event] = field(default_factory=list)
    watchers: list[Watcher] = field(default_factory=list)
    replays: list[asyncio.Task[list[Event]]] = field(default_factory=list)

    def note(self, kind: str, **fields: Any) -> None:
        self.told.append({"seq": self.log.seq, "turn": self.turn, "type": kind, **fields})

    async def text(self, word: int, _: int) -> None:
        piece = WORDS[word % len(WORDS)]
        self.log.text(self.turn, b"text", self.block, piece)
        self.note("text", block=self.block, offset=self.offset, text=piece)
        self.offset += len(piece)

    async def new_block(self, seal: int, _: int) -> None:
        if seal % 2:
            self.log.seal()
        self.block, self.offset = self.block + 1, 0

    async def event(self, _: int, __: int) -> None:
        self.log.event(self.turn, "tool", id="x")
        self.note("tool")

    async def end_turn(self, meanwhile: int, _: int) -> None:
        async with self.log.stored_first(self.turn, "done", {}, None) as row:
            self.told.append({"seq": row[1], "turn": self.turn, "type": "done"})
            if meanwhile % 2:
                await self.event(0, 0)
            self.watch(row[1] - 1 - meanwhile, 0)
            await self.db.run(store.finish_turn, new_turn(self.session_id, self.turn), "ok", [], [])
            await self.db.run(store.add_events, [row])
        self.log.topic.end_turn(self.turn)
        self.turn, self.block, self.offset = self.turn + 1, 0, 0

    async def settle(self, _: int, __: int) -> None:
        await self.log.settled()

    async def wait(self, times: int, _: int) -> None:
        for _ in range(times % 4):
            await asyncio.sleep(0)

    async def read(self, back: int, turn: int) -> None:
        self.watch(self.log.seq - back, turn)

    def watch(self, after: int, turn: int) -> None:
        after = max(0, after)
        wanted = self.turn if turn % 3 == 1 else None
        stream = self.log.read(after, turn=wanted, follow=turn % 5 != 4)
        task = asyncio.ensure_future(all_of(stream))
        if turn % 5 == 4:
            self.replays.append(task)
        else:
            self.watchers.append(Watcher(after, wanted, task))

    async def restart(self, lost: int, _: int) -> None:
        """The server ends, and the next one goes on with higher numbers."""
        await self.judge()
        last = self.log.seq + lost
        self.log = Journal(self.db, self.session_id, last, last + store.RANGE)
        self.log.tick()
        self.block, self.offset = self.block + 1, 0

    async def judge(self) -> None:
        await self.log.close(flush=True)
        await asyncio.gather(*self.replays)
        for watcher in self.watchers:
            had = [event for event in self.told if event["seq"] <= watcher.after]
            check(had, await watcher.task, self.told, watcher.turn)
        self.watchers.clear()
        check([], await all_of(self.log.read(0, follow=False)), self.told, None)


async def all_of(stream: AsyncIterator[bytes]) -> list[Event]:
    return [json.loads(line) for batch in [b async for b in stream] for line in batch.splitlines()]


def check(had: list[Event], seen: list[Event], told: list[Event], turn: int | None) -> None:
    """One reader, against all that was told of the turns that it wanted."""
    after = had[-1]["seq"] if had else 0
    numbers = [event["seq"] for event in seen]
    assert numbers == sorted(numbers)
    for number in {event["turn"] for event in told} if turn is None else {turn}:
        mine = [event for event in [*had, *seen] if event["turn"] == number]
        whole = [event for event in told if event["turn"] == number]
        assert text_of(mine) == text_of(whole)
    rest = [event for event in told if event["seq"] > after and turn in (None, event["turn"])]
    expected = [(event["seq"], event["type"]) for event in rest if event["type"] != "text"]
    assert [(e["seq"], e["type"]) for e in seen if e["type"] != "text"] == expected


STEPS = [
    *[Scene.text] * 6,
    *[Scene.read] * 3,
    *[Scene.wait] * 2,
    *[Scene.event] * 2,
    *(Scene.new_block, Scene.end_turn, Scene.settle, Scene.restart),
]
NUMBERS = st.sampled_from((0, 1, 2, 3, 4, 7, 12, 30))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(STEPS), NUMBERS, NUMBERS), max_size=40))
def test_every_reader_has_the_same_text(place: tuple[Database, Owner], steps: list[Any]) -> None:
    async def play() -> None:
        db, owner = place
        made = await session(db, owner)
        scene = Scene(db, made.id, Journal(db, made.id, 0, store.RANGE))
        scene.log.tick()
        for step, one, two in steps:
            await step(scene, one, two)
        await scene.judge()

    asyncio.run(play())
