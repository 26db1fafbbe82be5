"""`python -m tests.fakes.model [--port N]`: prints its url and serves until it is ended."""

from __future__ import annotations

import argparse
import asyncio
import contextlib

from .server import FakeModel


async def serve(port: int) -> None:
    model = FakeModel()
    await model.start(port)
    print(model.url, flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await model.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.model", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
