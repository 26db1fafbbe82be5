"""The real server as a process of its own, which can be stopped and killed."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from tests.e2e.api import Api
from tests.fakes.model import FakeModel

ROOT = Path(__file__).resolve().parents[2]
API_KEY = "a-root-key-for-these-tests-only"


class Server:
    """`python -m main` on a free port, with the fake model behind it."""

    def __init__(self, data_dir: Path, model: FakeModel, **settings: str) -> None:
        self.data_dir = data_dir
        self.settings = {
            "DATA_DIR": str(data_dir),
            "PORT": "0",
            "ORCHESTRATOR_API_KEY": API_KEY,
            "ANTHROPIC_API_KEY": "a-fake-key",
            "ANTHROPIC_BASE_URL": model.url,
            "WEB_AUTH_PASSWORD": "correct horse battery",
            **settings,
        }
        self.url = ""
        self.log = data_dir.parent / f"{data_dir.name}.log"
        self._process: asyncio.subprocess.Process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def start(self) -> Self:
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-W", "error", "-m", "main"),
                cwd=ROOT,
                env=self._environment(),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self.url = await self._address()
        return self

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self._process.returncode is None:
            # Not the process's own send_signal, which would reap a dead one behind asyncio's back.
            os.kill(self.pid, number)
        return await self._process.wait()

    async def kill(self) -> None:
        """As `kill -9` does: it gets no chance to say anything."""
        await self.stop(signal.SIGKILL)

    async def restart(self) -> Self:
        return await self.start()

    @property
    def key(self) -> str:
        return (
            self.settings["ORCHESTRATOR_API_KEY"] or (self.data_dir / "api-key").read_text().strip()
        )

    def user(self, name: str = "admin") -> Api:
        return Api(self.url, self.key, name)

    def _environment(self) -> Mapping[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return {**kept, **self.settings}

    async def _address(self) -> str:
        assert self._process.stdout
        async for line in self._process.stdout:
            if found := re.search(rb"Listening\s+(http://\S+)", line):
                return found[1].decode()
        raise AssertionError(f"the server did not start:\n{self.log.read_text()[-4000:]}")


@asynccontextmanager
async def serving(data_dir: Path, model: FakeModel, **settings: str) -> AsyncIterator[Server]:
    server = await Server(data_dir, model, **settings).start()
    try:
        yield server
    finally:
        await server.stop()
