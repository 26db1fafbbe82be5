"""The CLI without us: resident on its own pipes, and spawned for each message."""

import subprocess
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.stage import Stage
from sessions import protocol
from sessions.claude import Options, arguments

TEXT = b'"text_delta"'
RESULT = b'"type":"result"'
MODE = "bypassPermissions"


class Resident:
    """Started as the server starts it, but for the sandbox."""

    def __init__(self, stage: Stage) -> None:
        options = Options(cli_id=str(uuid.uuid4()), resume=False, model="", permission_mode=MODE)
        home = _home(stage, "resident")
        self._popen = _spawn(stage, [*arguments(options)], home, stdin=subprocess.PIPE)

    def __enter__(self) -> Self:
        self._write(protocol.request("initialize-1", "initialize"))
        _until(self._popen, b'"control_response"')
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        with self._popen:
            self._popen.terminate()

    def turn(self, prompt: str) -> float:
        """One whole turn; the seconds to its first text."""
        began = time.perf_counter()
        self._write(protocol.prompt(prompt, str(uuid.uuid4())))
        _until(self._popen, TEXT)
        seconds = time.perf_counter() - began
        _until(self._popen, RESULT)
        return seconds

    def _write(self, line: bytes) -> None:
        assert self._popen.stdin
        self._popen.stdin.write(line)
        self._popen.stdin.flush()


def spawned_turn(stage: Stage, prompt: str) -> float:
    """`claude -p`, once, to its end; the seconds to its first text."""
    given = ["-p", prompt, "--output-format=stream-json", "--verbose"]
    given += ["--include-partial-messages", f"--permission-mode={MODE}"]
    home = _home(stage, "spawned")
    began = time.perf_counter()
    with _spawn(stage, given, home, stdin=subprocess.DEVNULL) as popen:
        _until(popen, TEXT)
        seconds = time.perf_counter() - began
        _until(popen, RESULT)
    return seconds


def _home(stage: Stage, name: str) -> Path:
    home = stage.folder / name
    home.mkdir(exist_ok=True)
    return home


def _spawn(stage: Stage, given: list[str], home: Path, *, stdin: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(stage.cli), *given],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(stage, home),
        cwd=home,
    )


def _environment(stage: Stage, home: Path) -> Mapping[str, str]:
    """What an agent of the server gets, which may be root here only because it is said so."""
    return {
        "HOME": str(home),
        "TMPDIR": str(home),
        "USER": "admin",
        "LOGNAME": "admin",
        "SHELL": "/bin/bash",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "DISABLE_AUTOUPDATER": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
        "CLAUDE_CODE_DISABLE_CRON": "1",
        "IS_SANDBOX": "1",
        "ANTHROPIC_API_KEY": "a-fake-key",
        "ANTHROPIC_BASE_URL": stage.model.url,
    }


def _until(popen: subprocess.Popen[bytes], word: bytes) -> None:
    assert popen.stdout
    for line in popen.stdout:
        if word in line:
            return
    raise AssertionError(f"the CLI ended before it said {word.decode()}")
