"""`make bench`: every figure that is promised, measured here and now, in one table."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable

from bench import burst, listing, memory, report, start, turns
from bench.report import Figure
from bench.stage import Stage, stage
from sessions import claude

PARTS: dict[str, Callable[[Stage], Awaitable[list[Figure]]]] = {
    "turns": turns.figures,
    "burst": burst.figures,
    "memory": memory.figures,
    "listing": listing.figures,
    "start": start.figures,
}


async def measure(parts: list[str], rounds: int) -> None:
    figures: list[Figure] = []
    with stage(rounds) as here:
        machine = report.machine(await claude.version(here.cli))
        for part in parts:
            print(f"measuring {part} …", file=sys.stderr, flush=True)
            figures += await PARTS[part](here)
    print(report.table(figures))
    print(machine)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sessions", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all, unless named")
    parser.add_argument("--rounds", type=int, default=20, help="of which the median is told")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - PARTS.keys():
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    asyncio.run(measure(arguments.parts or list(PARTS), arguments.rounds))


if __name__ == "__main__":
    main()
