"""The vocabulary that every front end reads: one JSON object a line (pure).

Text and thinking come by the thousand a second, so their lines are put together
by hand; everything else goes through `line`.
"""

import time
from typing import Any, Literal

import orjson

Outcome = Literal["ok", "error", "interrupted", "cancelled", "timeout"]
Source = Literal["api", "panel", "telegram", "job"]
LONGEST_OUTPUT = 64 * 1024
CUT_OFF = {
    "code": "server_restarted",
    "message": "The server ended while it worked on this prompt. It was not run again: send it "
    "once more if you want it done.",
}


def line(seq: int, turn: int, kind: str, at: str, fields: dict[str, Any]) -> bytes:
    return orjson.dumps({"seq": seq, "turn": turn, "type": kind, "at": at, **fields}) + b"\n"


def text_line(
    seq: int, turn: int, kind: bytes, at: bytes, block: int, offset: int, text: str
) -> bytes:
    return b'{"seq":%d,"turn":%d,"type":"%b","at":"%b","block":%d,"offset":%d,"text":%b}\n' % (
        seq,
        turn,
        kind,
        at,
        block,
        offset,
        orjson.dumps(text),
    )


def json_text(value: Any) -> str:
    return orjson.dumps(value).decode()


def milliseconds() -> int:
    return time.time_ns() // 1_000_000


def instant(ms: int) -> str:
    """ISO 8601, UTC, with a Z."""
    seconds, rest = divmod(ms, 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:03d}Z"


def tool_result(tool_id: str, output: str, *, is_error: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {"id": tool_id, "output": output, "is_error": is_error}
    if len(output) > LONGEST_OUTPUT:
        half = LONGEST_OUTPUT // 2
        cut = len(output) - LONGEST_OUTPUT
        fields["output"] = f"{output[:half]}\n… {cut} characters left out …\n{output[-half:]}"
        fields["truncated"] = True
    return fields


def done(
    outcome: Outcome,
    session_id: str,
    *,
    result: str = "",
    cost_usd: float | None = 0.0,
    usage: dict[str, Any] | None = None,
    num_turns: int = 0,
    duration_ms: int = 0,
) -> dict[str, Any]:
    return {
        "outcome": outcome,
        "result": result,
        "session_id": session_id,
        "is_error": outcome != "ok",
        "cost_usd": cost_usd,
        "usage": usage or {},
        "num_turns": num_turns,
        "duration_ms": duration_ms,
    }
