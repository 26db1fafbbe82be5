"""What was measured, in words: one table, and what it was measured on."""

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from sessions import admission

MS = 1000.0


@dataclass(frozen=True, slots=True)
class Figure:
    name: str
    measured: str
    target: str
    ok: bool | None = None  # None: told for comparison


def at_most(name: str, value: float, limit: float, unit: str, detail: str = "") -> Figure:
    return Figure(name, _told(value, unit, detail), f"≤ {limit:g}{unit}", value <= limit)


def at_least(name: str, value: float, limit: float, unit: str, detail: str = "") -> Figure:
    return Figure(name, _told(value, unit, detail), f"≥ {limit:,g}{unit}", value >= limit)


def told(name: str, samples: Sequence[float], factor: float, unit: str) -> Figure:
    return Figure(name, spread(samples, factor, unit), "")


def spread(samples: Sequence[float], factor: float, unit: str) -> str:
    """The median, and between which values the middle half lies."""
    middle = number(statistics.median(samples) * factor)
    if len(samples) < 2:
        return f"{middle}{unit}"
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return f"{middle}{unit} ({number(low * factor)} … {number(high * factor)})"


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(figures: Sequence[Figure]) -> str:
    rows = [("figure", "measured", "target", "")]
    rows += [(each.name, each.measured, each.target, _verdict(each)) for each in figures]
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


def _verdict(figure: Figure) -> str:
    return "" if figure.ok is None else "ok" if figure.ok else "MISSED"
