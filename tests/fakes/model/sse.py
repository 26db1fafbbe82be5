"""A reply as the bytes of the API: frames of a stream, or one JSON body (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from .replies import Block, Say, Text, Thinking, ToolUse

SIGNATURE = "ZmFrZS1zaWduYXR1cmU="


@dataclass(frozen=True)
class Frame:
    data: bytes
    is_delta: bool = False


def event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))


PING = event("ping")
END = event("message_stop")


def frames(say: Say, model: str, number: int) -> Iterator[Frame]:
    yield Frame(event("message_start", message=_message(say, model, number, [])) + PING)
    for index, block in enumerate(say.blocks):
        yield Frame(_opening(block, index, number))
        yield from _deltas(block, index)
        yield Frame(event("content_block_stop", index=index))
    end = {"stop_reason": _stop_reason(say), "stop_sequence": None}
    yield Frame(event("message_delta", delta=end, usage=_usage(say)) + END)


def whole(say: Say, model: str, number: int) -> bytes:
    content = [_content(block, i, number) for i, block in enumerate(say.blocks)]
    message = _message(say, model, number, content)
    return orjson.dumps({**message, "stop_reason": _stop_reason(say)})


def error(kind: str, message: str) -> bytes:
    return orjson.dumps({"type": "error", "error": {"type": kind, "message": message}})


def _message(say: Say, model: str, number: int, content: list[Any]) -> dict[str, Any]:
    return {
        "id": f"msg_fake{number:08}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**_usage(say), "output_tokens": 1} if not content else _usage(say),
    }


def _usage(say: Say) -> dict[str, int]:
    return {
        "input_tokens": say.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": sum(_tokens(block) for block in say.blocks),
    }


def _tokens(block: Block) -> int:
    if isinstance(block, ToolUse):
        return 20
    return sum(map(len, block.pieces)) // 4 + 1


def _stop_reason(say: Say) -> str:
    used_tool = any(isinstance(block, ToolUse) for block in say.blocks)
    return say.stop_reason or ("tool_use" if used_tool else "end_turn")


def _content(block: Block, index: int, number: int) -> dict[str, Any]:
    match block:
        case Text(pieces):
            return {"type": "text", "text": "".join(pieces)}
        case Thinking(pieces):
            return {"type": "thinking", "thinking": "".join(pieces), "signature": SIGNATURE}
        case ToolUse(name, input):
            # Unique, because the CLI pairs results with uses by it across a whole history.
            use = f"toolu_fake{number:08}x{index}"
            return {"type": "tool_use", "id": use, "name": name, "input": dict(input)}


def _opening(block: Block, index: int, number: int) -> bytes:
    empty: dict[type, dict[str, Any]] = {
        Text: {"text": ""},
        Thinking: {"thinking": "", "signature": ""},
        ToolUse: {"input": {}},
    }
    content = {**_content(block, index, number), **empty[type(block)]}
    return event("content_block_start", index=index, content_block=content)


def _deltas(block: Block, index: int) -> tuple[Frame, ...]:
    if isinstance(block, ToolUse):
        partial = orjson.dumps(dict(block.input)).decode()
        return (_delta(index, type="input_json_delta", partial_json=partial),)
    return _encoded(block, index)


@lru_cache(maxsize=16)
def _encoded(block: Text | Thinking, index: int) -> tuple[Frame, ...]:
    if isinstance(block, Text):
        return tuple(_delta(index, type="text_delta", text=p) for p in block.pieces)
    thoughts = (_delta(index, type="thinking_delta", thinking=p) for p in block.pieces)
    return (*thoughts, _delta(index, type="signature_delta", signature=SIGNATURE))


def _delta(index: int, **delta: str) -> Frame:
    return Frame(event("content_block_delta", index=index, delta=delta), is_delta=True)
