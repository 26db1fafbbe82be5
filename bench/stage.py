"""What all measurements stand on: a folder, a fake model, real servers, the real CLI."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import config
from tests.e2e.server import Server, serving
from tests.fakes.model import FakeModel

EMITTER = Path(__file__).with_name("emitter.sh")


@dataclass(frozen=True, slots=True)
class Stage:
    folder: Path
    model: FakeModel  # it runs as a program of its own; this one only knows its address
    cli: Path
    rounds: int

    def server(self, name: str, **settings: str) -> AbstractAsyncContextManager[Server]:
        settings = {"CLAUDE_BIN": str(self.cli), **settings}
        return serving(self.folder / name, self.model, **settings)


@contextmanager
def stage(rounds: int) -> Iterator[Stage]:
    cli = config.find_claude(config.from_environment())
    with (
        tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder,
        program("tests.fakes.model") as url,
    ):
        model = FakeModel()
        model.url = url
        yield Stage(Path(folder), model, cli, rounds)


@contextmanager
def program(module: str, *arguments: str) -> Iterator[str]:
    """A program of ours that runs beside; what it says first."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        try:
            yield running.stdout.readline().strip()
        finally:
            running.terminate()
