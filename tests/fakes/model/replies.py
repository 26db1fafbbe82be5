"""What the model can be told to do, as values; `from_json` reads the same from a script."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

WORD = re.compile(r"\s*\S+\s*?(?=\s|$)|\s+$")
PIECE = 16 * 1024
LINE = "All work and no play makes Jack a dull boy, said the model.\n"

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


@dataclass(frozen=True)
class Text:
    pieces: tuple[str, ...]


@dataclass(frozen=True)
class Thinking:
    pieces: tuple[str, ...]


@dataclass(frozen=True)
class ToolUse:
    name: str
    input: Mapping[str, Any] = field(hash=False)


Block = Text | Thinking | ToolUse


@dataclass(frozen=True)
class Stop:
    """What happens once `after` deltas are out; 0 is before the first byte."""

    how: Literal["hold", "hang", "cut"]
    after: int
    gate: str = ""


@dataclass(frozen=True)
class Say:
    blocks: tuple[Block, ...]
    delay: float = 0.0
    stop: Stop | None = None
    input_tokens: int = 10
    stop_reason: str | None = None


@dataclass(frozen=True)
class Fail:
    status: int
    message: str
    headers: tuple[tuple[str, str], ...] = ()
    times: int = 1


Reply = Say | Fail


def text(
    text: str,
    delay: float = 0.0,
    chunks: int | Sequence[str] | None = None,
    hold_after: int | None = None,
    gate: str = "",
    input_tokens: int = 10,
    stop_reason: str | None = None,
) -> Say:
    """Word by word when it is slow or held, else in large pieces, unless `chunks` says how."""
    if chunks is None and (delay or hold_after is not None):
        chunks = _words(text)
    stop = None if hold_after is None else Stop("hold", hold_after, gate)
    blocks = (Text(_pieces(text, chunks)),)
    return Say(blocks, delay, stop, input_tokens, stop_reason)


def thinking(thought: str, then: str = "", delay: float = 0.0) -> Say:
    answer = (Text(_pieces(then, _words(then))),) if then else ()
    return Say((Thinking(_pieces(thought, _words(thought))), *answer), delay)


def tool(name: str, input: Mapping[str, Any], text_before: str | None = None) -> Say:
    before = (Text((text_before,)),) if text_before else ()
    return Say((*before, ToolUse(name, input)))


def both(*replies: Say) -> Say:
    """One message made of several: the flow is the first one's."""
    return replace(replies[0], blocks=tuple(b for r in replies for b in r.blocks))


def hang(after: int = 0, text: str = "one two three four five six seven eight") -> Say:
    return Say((Text(_pieces(text, _words(text))),), stop=Stop("hang", after))


def cut(after: int = 0, text: str = "one two three four five six seven eight") -> Say:
    return Say((Text(_pieces(text, _words(text))),), stop=Stop("cut", after))


def big(bytes: int = 16 * 1024 * 1024, piece: int = PIECE) -> Say:
    body = (LINE * (bytes // len(LINE) + 1))[:bytes]
    return Say((Text(tuple(body[i : i + piece] for i in range(0, bytes, piece))),))


def status(
    status: int, times: int = 1, retry_after: int | None = None, message: str | None = None
) -> Fail:
    headers = () if retry_after is None else (("retry-after", str(retry_after)),)
    return Fail(status, message or f"The fake model answers {status}", headers, times)


def subscription_limit(resets_at: int, kind: str = "five_hour") -> Fail:
    """As claude.ai answers a subscriber; the CLI heeds it only with OAuth credentials."""
    prefix = "anthropic-ratelimit-unified"
    headers = (
        (f"{prefix}-status", "rejected"),
        (f"{prefix}-reset", str(resets_at)),
        (f"{prefix}-representative-claim", kind),
        (f"{prefix}-overage-status", "rejected"),
        (f"{prefix}-overage-disabled-reason", "org_level_disabled"),
    )
    return Fail(429, "This request would exceed your account's rate limit.", headers)


def _pieces(text: str, chunks: int | Sequence[str] | None) -> tuple[str, ...]:
    if chunks is None:
        size = PIECE
    elif isinstance(chunks, int):
        size = -(-len(text) // chunks)
    else:
        return tuple(chunks)
    return tuple(text[i : i + size] for i in range(0, len(text), max(size, 1)))


def _words(text: str) -> tuple[str, ...]:
    return tuple(WORD.findall(text))


def _both(replies: Sequence[Mapping[str, Any]]) -> Say:
    says = [from_json(step) for step in replies]
    return both(*(say for say in says if isinstance(say, Say)))


MAKERS: dict[str, Callable[..., Reply]] = {
    "text": text,
    "thinking": thinking,
    "tool": tool,
    "both": _both,
    "hang": hang,
    "cut": cut,
    "big": big,
    "status": status,
    "subscription_limit": subscription_limit,
}


def from_json(step: Mapping[str, Any]) -> Reply:
    """`{"do": "text", "text": "hi", "delay": 0.1}`: a maker's name and its arguments."""
    arguments = {key: value for key, value in step.items() if key not in ("do", "on")}
    return MAKERS[step["do"]](**arguments)
