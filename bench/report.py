"""What was measured, in words: one table, and what it was measured on."""

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from sessions import admission


@dataclass(frozen=True, slots=True)
class Figure:
    name: str
    measured: str
    target: str
    ok: bool


def at_most(name: str, value: float, limit: float, unit: str, detail: str = "") -> Figure:
    return Figure(name, _told(value, unit, detail), f"≤ {number(limit)}{unit}", value <= limit)


def at_least(name: str, value: float, limit: float, unit: str, detail: str = "") -> Figure:
    return Figure(name, _told(value, unit, detail), f"≥ {number(limit)}{unit}", value >= limit)


def spread(samples: Sequence[float], unit: str) -> str:
    """The median, and between which values the middle half lies."""
    middle = f"{number(statistics.median(samples))}{unit}"
    if len(samples) < 2:
        return middle
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return f"{middle} ({number(low)} … {number(high)})"


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(figures: Sequence[Figure]) -> str:
    rows = [("figure", "measured [medians, and where the middle half lies]", "target", "")]
    rows += [
        (each.name, each.measured, each.target, "ok" if each.ok else "MISSED") for each in figures
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def machine(cli_version: str) -> str:
    cores, (_, total) = len(os.sched_getaffinity(0)), admission.memory()
    load = " ".join(f"{average:.1f}" for average in os.getloadavg())
    return (
        f"{cores} cores, {total / admission.GIB:.0f} GiB, Python {platform.python_version()}, "
        f"Claude CLI {cli_version}, load before {load}"
    )


def _told(value: float, unit: str, detail: str) -> str:
    return f"{number(value)}{unit}" + (f"  [{detail}]" if detail else "")
