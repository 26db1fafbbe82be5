"""How many events a second go through, and what a client that never reads costs."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from bench import memory
from bench.report import Figure, at_least, at_most, spread
from bench.stage import EMITTER, Stage
from bench.wire import Wire, raw_request
from tests.e2e.server import Server

DELTAS = 100_000
LONG = 4
ENVELOPE = {
    "session_id": "73caece2-32ad-40cc-b872-23bd232353a0",
    "parent_tool_use_id": None,
    "uuid": "2f062c3e-cbca-40f0-9471-d6e8b9570961",
    "api_message_id": "msg_fake00000004",
}
RESULT = {
    "type": "result",
    "subtype": "success",
    "is_error": False,
    "result": "",
    "num_turns": 1,
    "duration_ms": 1,
    "session_id": ENVELOPE["session_id"],
    "model_usage_since_last_result": {},
}


async def figures(stage: Stage) -> list[Figure]:
    async with stage.server("burst", CLAUDE_BIN=str(EMITTER)) as server:
        with Wire(server) as wire:
            session = _session(wire, DELTAS * LONG)
            before = memory.resident(server.pid)
            with _stalled(server, session):
                _burst(server, session)
            grown = memory.peak(server.pid) - before
            session = _session(wire, DELTAS)
            rates = [_burst(server, session) for _ in range(stage.rounds)]
    return [
        at_least("events a second to a client", median(rates), 80_000, "/s", spread(rates, "/s")),
        at_most("memory growth, one of two clients stalled", grown / memory.MIB, 32, " MiB"),
    ]


def _session(wire: Wire, deltas: int) -> str:
    session = wire.ask("POST", "/sessions")
    lines = Path(session["cwd"], "lines.jsonl")
    lines.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in _answer(deltas)))
    lines.chmod(0o644)
    return str(session["id"])


def _answer(deltas: int) -> Iterator[dict[str, object]]:
    """What the CLI prints for one answer that comes word by word."""
    start = {"type": "message_start", "message": {"id": ENVELOPE["api_message_id"]}}
    yield _streamed(start)
    block = {"type": "text", "text": ""}
    yield _streamed({"type": "content_block_start", "index": 0, "content_block": block})
    for number in range(deltas):
        delta = {"type": "text_delta", "text": f"word-{number} "}
        yield _streamed({"type": "content_block_delta", "index": 0, "delta": delta})
    yield _streamed({"type": "content_block_stop", "index": 0})
    yield _streamed({"type": "message_stop"})
    yield RESULT


def _streamed(event: Mapping[str, object]) -> dict[str, object]:
    return {"type": "stream_event", "event": event, **ENVELOPE}


def _burst(server: Server, session: str) -> float:
    """Events a second, as a client in a process of its own counted them."""
    place = urlsplit(server.url)
    command = [sys.executable, "-m", "bench.counter", str(place.hostname), str(place.port), session]
    counted = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    assert counted["done"], f"the client was dropped after {counted['events']:,} events"
    assert counted["events"] >= DELTAS, counted
    rate: float = counted["events"] / counted["seconds"]
    return rate


@contextmanager
def _stalled(server: Server, session: str) -> Iterator[None]:
    """A client that follows, and never reads."""
    place = urlsplit(server.url)
    with socket.create_connection((place.hostname, place.port)) as connection:
        path = f"/sessions/{session}/events?follow=1"
        connection.sendall(raw_request("GET", path))
        yield
