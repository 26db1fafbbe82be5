"""A server for test_recovery to kill: URL SESSION idle|asking|writing|finishing."""

import asyncio
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from db import Database
from instances import Instances
from sessions import store
from sessions.events import done


def say(*words: object) -> None:
    print(*words, flush=True)


async def serve(url: str, session_id: str, what: str) -> None:
    db = Database(url)
    instances = Instances(db, time.time)
    await instances.join()
    held = await db.run(store.hold, session_id, instances.id)
    assert held
    seq = held.reserved_seq - store.RANGE
    for turn in await db.read(store.queued, session_id):
        await db.run(store.start_turn, turn, instances.id, "cli")
        if what == "asking":
            await db.run(store.add_events, store.event_rows(turn, seq, [("ask", {"ask_id": "a"})]))
            seq += 1
        say("began", turn.number, seq)
        while what != "finishing":
            if what == "writing":
                seq = await write(db, turn, seq)
            else:
                await asyncio.sleep(1000)
        seq = await write(db, turn, seq)
        row = store.event_rows(turn, seq, [("done", done("ok", session_id))])
        await db.run(store.finish_turn, turn, "ok", row, [])
        seq += 1


async def write(db: Database, turn: store.TurnRow, seq: int) -> int:
    """Readers hear of the events before they are rows."""
    rows = store.event_rows(turn, seq, [("tool", {"id": str(number)}) for number in range(20)])
    say("used", turn.number, rows[-1][1])
    await db.run(store.add_events, rows)
    return rows[-1][1]


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
