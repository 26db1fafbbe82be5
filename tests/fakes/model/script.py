"""Which reply a request gets: a rule on its text, else the next of the script, else the demo."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .demo import improvise
from .replies import Fail, Reply, from_json, text
from .requests import Request

# The CLI answers these by asking again at once in other ways (fewer betas, no streaming).
PERSISTENT = {400, 404, 413}
SUMMARY = "<summary>\nThe user and the fake model talked.\n</summary>"


class Script:
    def __init__(self, default: Reply | None = None) -> None:
        self.default = default
        self._queue: deque[Reply] = deque()
        self._rules: list[tuple[str, deque[Reply]]] = []
        self._refused: dict[tuple[str, str], Fail] = {}

    def add(self, *replies: Reply) -> None:
        self._queue.extend(_repeated(replies))

    def on(self, substring: str, *replies: Reply) -> None:
        self._rules.append((substring, deque(_repeated(replies))))

    def load(self, steps: Iterable[Mapping[str, Any]]) -> None:
        """Steps in JSON; those with the same "on" belong to one rule."""
        for step in steps:
            if substring := step.get("on"):
                self.on(substring, from_json(step))
            else:
                self.add(from_json(step))

    def clear(self) -> None:
        self._queue.clear()
        self._rules.clear()
        self._refused.clear()

    @property
    def left(self) -> int:
        return len(self._queue) + sum(len(replies) for _, replies in self._rules)

    def reply(self, request: Request) -> Reply:
        if self._refused and (refusal := self._refused.get(request.place)):
            return refusal
        reply = self._next(request)
        if isinstance(reply, Fail) and reply.status in PERSISTENT:
            self._refused[request.place] = reply
        return reply

    def _next(self, request: Request) -> Reply:
        for substring, replies in self._rules:
            if replies and substring in request.last_text:
                return replies.popleft()
        if self._queue:
            return self._queue.popleft()
        return self.default or improvise(request)


def side_reply(request: Request) -> Reply:
    if request.is_summary:
        return text(SUMMARY)
    return text('{"title": "A fake title"}' if "title" in request.system else "ok")


def _repeated(replies: Iterable[Reply]) -> Iterator[Reply]:
    for reply in replies:
        for _ in range(reply.times if isinstance(reply, Fail) else 1):
            yield reply
