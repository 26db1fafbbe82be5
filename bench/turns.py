"""How soon the first text comes: over our HTTP, from the bare CLI, and from `claude -p`."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from bench import cli
from bench.report import Figure, at_most, spread
from bench.stage import Stage
from bench.wire import Wire

SETTLE_SECONDS = 0.1  # the last turn's own after-work shall not fall into the next
WARMING = 30  # turns until the CLI's compiler has done its work
AHEAD_SECONDS = 1.0
PROMPT = "hello"


@dataclass(frozen=True, slots=True)
class Samples:
    """Milliseconds from the prompt to the first text."""

    warm: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    spawned: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)


async def figures(stage: Stage) -> list[Figure]:
    async with stage.server("turns") as server:
        with Wire(server) as wire, cli.Resident(stage) as resident:
            session = wire.create()
            kinds = {
                "warm": lambda: wire.turn(session, PROMPT),
                "bare": lambda: resident.turn(PROMPT),
                "spawned": lambda: cli.spawned_turn(stage, PROMPT),
                "first": lambda: _first_turn(wire),
            }
            for _ in range(WARMING):
                kinds["warm"]()
                kinds["bare"]()
            samples = _interleaved(kinds, stage.rounds)
            isolation = wire.ask("GET", "/healthz")["isolation"]
    return _told(samples, f"warm turn in {isolation}")


def _interleaved(kinds: dict[str, Callable[[], float]], rounds: int) -> Samples:
    """Every kind in every round, first each once unmeasured; nobody is always after the same."""
    samples = Samples()
    order = list(kinds)
    for number in range(rounds + 1):
        for kind in order:
            time.sleep(SETTLE_SECONDS)
            seconds = kinds[kind]()
            if number:
                getattr(samples, kind).append(seconds * 1000)
        order = order[1:] + order[:1] if number % 2 else order[::-1]
    return samples


def _first_turn(wire: Wire) -> float:
    session = wire.create()
    time.sleep(AHEAD_SECONDS)
    seconds = wire.turn(session, PROMPT)
    wire.ask("DELETE", f"/sessions/{session}")
    return seconds


def _told(samples: Samples, name: str) -> list[Figure]:
    warm, bare, spawned = median(samples.warm), median(samples.bare), median(samples.spawned)
    first, once = median(samples.first), spread(samples.spawned, " ms")
    ours, theirs = spread(samples.warm, " ms"), spread(samples.bare, " ms")
    early = spread(samples.first, " ms")
    return [
        at_most(f"{name} / bare CLI", warm / bare, 1.3, "×", f"{ours} / {theirs}"),
        at_most(f"{name} - bare CLI", warm - bare, 10, " ms"),
        at_most(f"{name} / claude -p", warm / spawned, 1 / 15, "×", f"{ours} / {once}"),
        at_most(
            "turn 1 s after creation / claude -p", first / spawned, 0.3, "×", f"{early} / {once}"
        ),
    ]
