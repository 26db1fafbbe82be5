"""The near ends of a program's pipes: lines out of chunks, and input that never blocks."""

import asyncio
import os
from typing import IO

LINE_LIMIT = 64 * 1024**2
WRITE_SIZE = 64 * 1024


class Lines:
    """Cuts chunks into lines; a long line is put together once, when its end arrives."""

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self.too_long = False

    def feed(self, chunk: bytes) -> list[bytes]:
        lines = chunk.split(b"\n")
        tail = lines.pop()
        if lines and self._parts:
            if not self._fits(lines[0]):
                return []
            lines[0] = self._join(lines[0])
        if tail and self._fits(tail):
            self._parts.append(tail)
        return lines

    def rest(self) -> list[bytes]:
        return [self._join(b"")] if self._parts else []

    def _fits(self, part: bytes) -> bool:
        self._size += len(part)
        self.too_long = self._size > self._limit
        return not self.too_long

    def _join(self, end: bytes) -> bytes:
        line = b"".join((*self._parts, end))
        self._parts.clear()
        self._size = 0
        return line


class Input:
    """What the program does not take yet waits here; a program that is gone takes all."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._loop = asyncio.get_running_loop()
        self._pipe = pipe
        self._unsent = bytearray()
        self._ending = False
        self._room = asyncio.Event()
        self._room.set()
        os.set_blocking(pipe.fileno(), False)

    def write(self, data: bytes) -> None:
        if self._ending:
            return
        waiting = bool(self._unsent)
        self._unsent += data
        if not waiting:
            self._flush()

    async def drain(self) -> None:
        await self._room.wait()

    def end(self) -> None:
        """Close as soon as everything was taken."""
        self._ending = True
        if not self._unsent:
            self.close()

    def close(self) -> None:
        self._ending = True
        self._unsent.clear()
        self._room.set()
        if not self._pipe.closed:
            self._loop.remove_writer(self._pipe.fileno())
            self._pipe.close()

    def _flush(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: os.write(self._pipe.fileno(), self._unsent[:WRITE_SIZE])]
        except BlockingIOError:
            self._loop.add_writer(self._pipe.fileno(), self._flush)
        except BrokenPipeError:
            self.close()
        else:
            self._loop.remove_writer(self._pipe.fileno())
            if self._ending:
                self.close()
        self._tell_room()

    def _tell_room(self) -> None:
        if len(self._unsent) > WRITE_SIZE:
            self._room.clear()
        else:
            self._room.set()
