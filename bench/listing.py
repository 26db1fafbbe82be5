"""GET /sessions against a bare aiohttp route that gives the same JSON."""

import json
import re
import selectors
import socket
import time
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from bench.report import Figure, at_least, spread
from bench.stage import EMITTER, Stage, program
from bench.wire import Wire, raw_request

SESSIONS = 10
CONNECTIONS = 16
SECONDS = 0.5
LOOK_SECONDS = 0.05
PIECE = 64 * 1024
REQUEST = raw_request("GET", "/sessions", version="1.1")
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


async def figures(stage: Stage) -> list[Figure]:
    async with stage.server("listing", CLAUDE_BIN=str(EMITTER)) as server:
        with Wire(server) as wire:
            answer = _sessions(wire)
        with program("bench.bare", json.dumps(answer)) as bare:
            loads = Load(server.url), Load(bare)
            rounds = [(loads[0].rate(), loads[1].rate()) for _ in range(stage.rounds)]
    ours, theirs = zip(*rounds, strict=True)
    detail = " / ".join(spread(each, "/s") for each in (ours, theirs))
    ratio = median(ours) / median(theirs)
    return [at_least("GET /sessions with 10 / bare aiohttp", ratio, 0.25, "×", detail)]


def _sessions(wire: Wire) -> Any:
    """The list, once nothing in it changes any more."""
    for number in range(SESSIONS):
        wire.ask("POST", "/sessions", title=f"Session number {number}")
    while True:
        answer = wire.ask("GET", "/sessions")
        states = [session["state"] for session in answer["sessions"]]
        if states == ["idle"] * SESSIONS:
            return answer
        time.sleep(LOOK_SECONDS)


class Connection:
    """Kept open; one request after the other."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port))
        self.size = self._first()
        self._left = 0

    def ask(self) -> None:
        self.socket.sendall(REQUEST)
        self._left = self.size

    def answered(self) -> bool:
        """Something came; whether it was the rest of an answer."""
        self._left -= len(self.socket.recv(PIECE))
        assert self._left >= 0, "the answers differ in length"
        return not self._left

    def _first(self) -> int:
        """The length of an answer: all of them are the same."""
        self.socket.sendall(REQUEST)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self.socket.recv(PIECE)
        head, _, body = received.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        assert length, head
        while len(body) < int(length[1]):
            body += self.socket.recv(PIECE)
        return len(head) + 4 + len(body)


class Load:
    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._ready = selectors.DefaultSelector()
        self._connections = [
            Connection(str(place.hostname), place.port or 80) for _ in range(CONNECTIONS)
        ]
        for connection in self._connections:
            self._ready.register(connection.socket, selectors.EVENT_READ, connection)

    def rate(self) -> float:
        """Answers a second, with every connection always waiting for one."""
        began = now = time.perf_counter()
        for connection in self._connections:
            connection.ask()
        answers, asked = 0, CONNECTIONS
        while asked:
            for key, _ in self._ready.select():
                if key.data.answered():
                    answers += 1
                    now = time.perf_counter()
                    if now - began < SECONDS:
                        key.data.ask()
                    else:
                        asked -= 1
        return answers / (now - began)
