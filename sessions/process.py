"""The one door to other programs: start one in its box, talk by pipes, end its whole tree.

A program does not run before it passed a gate: from inside its box comes an empty line
that says the box stands, and goes the one that lets it in. Were the server killed while
the box is being built, the gate stays shut, and no orphan runs.
"""

import asyncio
import contextlib
import fcntl
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from typing import IO, NamedTuple, Self

from errors import unavailable
from sessions import cgroup
from sessions.command import Command, Handover
from sessions.pipes import LINE_LIMIT, Input, Lines

START_SECONDS = 10.0
STDIN_SECONDS = 1.0
TERM_SECONDS = 6.0
TREE_SECONDS = 5.0
STDERR_KEPT = 64 * 1024
PIPE_SIZE = 1024**2
READ_SIZE = 256 * 1024


class Finished(NamedTuple):
    code: int
    stdout: str
    stderr: str


OnLines = Callable[[list[bytes]], object]
OnExit = Callable[[int], object]


async def run(command: Command, *, seconds: float, text: str = "") -> Finished:
    """A short program to its end. One that takes too long is killed."""
    lines: list[bytes] = []
    process = await Process.start(command, on_lines=lines.extend, on_exit=_ignore)
    process.write(text.encode())
    process.close_stdin()
    try:
        async with asyncio.timeout(seconds):
            code = await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise unavailable(f"A program did not end within {seconds:g} s.") from None
    except asyncio.CancelledError:
        process.kill()
        raise
    return Finished(code, b"\n".join(lines).decode(errors="replace"), process.stderr_tail)


class Process:
    """Made by `start`. Callbacks come from the event loop, every line before the exit.

    The exit code is the shell's: 128 + N for a program that signal N ended.
    """

    def __init__(self, command: Command) -> None:
        self._loop = asyncio.get_running_loop()
        self._command = command
        self._on_lines: OnLines = _ignore
        self._on_exit: OnExit = _ignore
        self._popen, self._info = _spawn(command)
        self._stdin, self._stdout, self._stderr = _pipes(self._popen)
        self._lines = Lines()
        self._errors = bytearray()
        self._first: tuple[int, str] | None = None
        self._ready: asyncio.Future[bool] = self._loop.create_future()
        self._begun = asyncio.Event()
        self._burial: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[int] | None = None
        self.pid = self._popen.pid
        self.fault: str | None = None
        self.exited: asyncio.Future[int] = self._loop.create_future()
        self._loop.add_reader(self._stdout, self._gate_answers)
        self._loop.add_reader(self._stderr, self._read_stderr)
        _watch(self._loop, self.pid, self._died)

    @classmethod
    async def start(cls, command: Command, *, on_lines: OnLines, on_exit: OnExit) -> Self:
        """Returns when the box stands and the program is being let in."""
        process = cls(command)
        if not await process._gate_stands():
            await process.wait()
            raise unavailable(f"A program could not be started: {process._reason()}.")
        process._on_lines, process._on_exit = on_lines, on_exit
        process._begun.set()
        process.write(b"\n")
        process.resume()
        return process

    @property
    def stderr_tail(self) -> str:
        return self._errors[-STDERR_KEPT:].decode(errors="replace")

    def write(self, data: bytes) -> None:
        """Never blocks; what the program does not take yet waits here. See `drain`."""
        self._stdin.write(data)

    async def drain(self) -> None:
        await self._stdin.drain()

    def close_stdin(self) -> None:
        self._stdin.end()

    def pause(self) -> None:
        """Stop reading; a program that writes on is soon held up by a full pipe."""
        if not self._stdout.closed:
            self._loop.remove_reader(self._stdout)

    def resume(self) -> None:
        if not self._stdout.closed and self._burial is None and self.fault is None:
            self._loop.add_reader(self._stdout, self._read_stdout)

    def terminate(self) -> None:
        """SIGTERM to the program alone: to bwrap it would end everything at once."""
        if self._burial is None and (pid := self._program()) is not None:
            cgroup.send({pid}, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to everything, at once; `exited` tells when nothing is left."""
        if self._burial is None:
            self._kill_rest()
            cgroup.send({self.pid}, signal.SIGKILL)

    async def end(self) -> int:
        """The ladder: close stdin, SIGTERM, SIGKILL. Returns when nothing is left."""
        if self._ending is None:
            self._ending = self._loop.create_task(self._descend())
        return await asyncio.shield(self._ending)

    async def wait(self) -> int:
        return await asyncio.shield(self.exited)

    def memory(self) -> int:
        group = self._command.group
        counted = group.memory() if group else None
        return cgroup.resident(self.pids()) if counted is None else counted

    def pids(self) -> set[int]:
        """Everything that lives in the box, the box's own helpers included."""
        group = self._command.group
        return group.pids() if group else cgroup.tree(self.pid, self._command.mark)

    async def _gate_stands(self) -> bool:
        try:
            async with asyncio.timeout(START_SECONDS):
                passed = await self._ready
        except TimeoutError:
            passed = False
            self.fault = f"its sandbox did not stand within {START_SECONDS:g} s"
        except asyncio.CancelledError:
            self._abandon()
            raise
        if not passed:
            self._abandon()
        return passed

    def _gate_answers(self) -> None:
        self._loop.remove_reader(self._stdout)
        self._learn_first()
        if not self._ready.done():
            self._ready.set_result(os.read(self._stdout.fileno(), 1) == b"\n")

    def _learn_first(self) -> None:
        """bwrap told it before it let its first process go on."""
        if self._info is None:
            return
        told = re.search(rb'"child-pid":\s*(\d+)', os.pread(self._info, 4096, 0))
        self._first = _identity(int(told[1])) if told else None
        os.close(self._info)
        self._info = None

    def _abandon(self) -> None:
        self.kill()
        self._begun.set()

    def _reason(self) -> str:
        last = self.stderr_tail.strip().rpartition("\n")[2]
        return self.fault or last.rstrip(".") or "it ended at once and said nothing"

    def _read_stdout(self) -> None:
        try:
            chunk = os.read(self._stdout.fileno(), READ_SIZE)
        except BlockingIOError:
            return
        if not chunk:
            self._loop.remove_reader(self._stdout)
            return
        if lines := self._lines.feed(chunk):
            self._on_lines(lines)
        if self._lines.too_long:
            self.fault = f"it wrote a line of more than {LINE_LIMIT // 1024**2} MiB"
            self._loop.remove_reader(self._stdout)
            self.kill()

    def _read_stderr(self) -> None:
        try:
            chunk = os.read(self._stderr.fileno(), READ_SIZE)
        except BlockingIOError:
            return
        if not chunk:
            self._loop.remove_reader(self._stderr)
        self._errors += chunk
        if len(self._errors) > 2 * STDERR_KEPT:
            del self._errors[:-STDERR_KEPT]

    async def _descend(self) -> int:
        self.resume()
        self.close_stdin()
        if not await self._ends_within(STDIN_SECONDS):
            self.terminate()
            if not await self._ends_within(TERM_SECONDS):
                self.kill()
        return await self.wait()

    async def _ends_within(self, seconds: float) -> bool:
        done, _ = await asyncio.wait([self.exited], timeout=seconds)
        return bool(done)

    def _program(self) -> int | None:
        """Itself, or the second process of its PID namespace, whose first is bwrap's own."""
        if not self._command.contained:
            return self.pid
        inside = cgroup.children(self._first[0]) if self._first else []
        return next((pid for pid in inside if cgroup.inner_pid(pid) == 2), None)

    def _kill_rest(self) -> None:
        if self._command.group:
            self._command.group.kill()
        if self._first:
            if _lives(self._first):
                cgroup.send({self._first[0]}, signal.SIGKILL)
        elif not self._command.group:
            cgroup.send({self.pid}, signal.SIGSTOP)
            cgroup.send(self.pids() - {self.pid}, signal.SIGKILL)

    def _rest_is_gone(self) -> bool:
        return not _lives(self._first) if self._first else not self.pids() - {self.pid}

    def _died(self) -> None:
        self._burial = self._loop.create_task(self._bury())

    async def _bury(self) -> None:
        """The program is a zombie until `wait`, so that its PID can't be somebody else's."""
        self._learn_first()
        if not self._ready.done():
            self._ready.set_result(False)
        await self._begun.wait()
        await self._end_rest()
        code = self._popen.wait()
        self._leave_group()
        try:
            self._close()
        finally:
            code = 128 - code if code < 0 else code
            if not self.exited.done():  # whoever awaited it bare may have been cancelled
                self.exited.set_result(code)
            self._on_exit(code)

    async def _end_rest(self) -> None:
        deadline, pause = self._loop.time() + TREE_SECONDS, 0.0005
        self._kill_rest()
        while not self._rest_is_gone() and self._loop.time() < deadline:
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.05)
            self._kill_rest()
        self._reap_first()

    def _leave_group(self) -> None:
        group = self._command.group
        if group and not group.remove():
            self._loop.call_later(1.0, group.remove)

    def _reap_first(self) -> None:
        """Its parent is dead, and the server its heir when that is PID 1 or a subreaper."""
        if self._first:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._first[0], os.WNOHANG)

    def _close(self) -> None:
        self._stdin.close()
        self._loop.remove_reader(self._stdout)
        self._loop.remove_reader(self._stderr)
        with self._stdout, self._stderr:
            if not self._lines.too_long:
                self._read_what_is_left()

    def _read_what_is_left(self) -> None:
        """At most one pipe full, so that a reader who paused may be given it too."""
        self._errors += b"".join(_available(self._stderr))
        lines = [line for chunk in _available(self._stdout) for line in self._lines.feed(chunk)]
        lines += self._lines.rest()
        if lines:
            self._on_lines(lines)


def _ignore(_: object) -> None:
    return


def _spawn(command: Command) -> tuple[subprocess.Popen[bytes], int | None]:
    group = command.group
    try:
        with Handover() as handover:
            argv = [*(group.entering() if group else ()), *handover.words(command.argv)]
            if group:
                group.create()
            return _popen(argv, command.env, handover.descriptors), handover.info
    except OSError as error:
        if group:
            group.remove()
        raise unavailable(f"A program could not be started: {error}.") from error


def _popen(
    argv: list[str], env: Mapping[str, str], handed: tuple[int, ...]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        cwd="/",
        pass_fds=handed,
        start_new_session=True,  # Ctrl-C in the server's terminal is not theirs
    )


def _pipes(popen: subprocess.Popen[bytes]) -> tuple[Input, IO[bytes], IO[bytes]]:
    assert popen.stdin and popen.stdout and popen.stderr  # noqa: PT018
    for pipe in (popen.stdout, popen.stderr):
        os.set_blocking(pipe.fileno(), False)
    with contextlib.suppress(OSError):
        fcntl.fcntl(popen.stdout, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    return Input(popen.stdin), popen.stdout, popen.stderr


def _available(pipe: IO[bytes]) -> list[bytes]:
    chunks: list[bytes] = []
    with contextlib.suppress(BlockingIOError):
        while chunk := os.read(pipe.fileno(), READ_SIZE):
            chunks.append(chunk)
    return chunks


def _watch(loop: asyncio.AbstractEventLoop, pid: int, died: Callable[[], None]) -> None:
    """Some builds of Python and some kernels have no pidfd; there a thread waits."""
    try:
        descriptor = os.pidfd_open(pid)
    except (AttributeError, OSError):
        threading.Thread(target=_wait_in_thread, args=(loop, pid, died), daemon=True).start()
        return

    def readable() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        died()

    loop.add_reader(descriptor, readable)


def _wait_in_thread(loop: asyncio.AbstractEventLoop, pid: int, died: Callable[[], None]) -> None:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(died)


def _identity(pid: int) -> tuple[int, str]:
    fields = cgroup.stat_fields(pid)
    return pid, fields[19] if fields else ""


def _lives(identity: tuple[int, str]) -> bool:
    fields = cgroup.stat_fields(identity[0])
    return bool(fields) and fields[0] not in "ZX" and fields[19] == identity[1]
