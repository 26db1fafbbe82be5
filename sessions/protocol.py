"""The CLI's lines ↔ typed messages (pure).

A line of a kind that is not known here, or that is no JSON at all, becomes an
`Unknown`: it is counted, and harms nobody. No value is taken for what it is not.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

import orjson

from sessions.messages import (
    NOISE,
    Answer,
    Ask,
    AskWithdrawn,
    Began,
    BlockStart,
    BlockStop,
    Delta,
    Json,
    Message,
    MessageStart,
    MessageStop,
    RateLimit,
    Request,
    Result,
    Retry,
    Said,
    Spent,
    ToolResult,
    ToolResults,
    Unknown,
    Working,
)

__all__ = [
    "RULE",
    "RULES_LIMIT",
    "Answer",
    "Ask",
    "AskWithdrawn",
    "Began",
    "BlockStart",
    "BlockStop",
    "Delta",
    "Json",
    "Message",
    "MessageStart",
    "RateLimit",
    "Request",
    "Result",
    "Retry",
    "Said",
    "Spent",
    "ToolResult",
    "ToolResults",
    "Unknown",
    "Working",
    "allow",
    "deny",
    "parse",
    "prompt",
    "refuse",
    "request",
    "rule_names",
    "session_rules",
]

# All rules go as one argument: a parenthesis inside one would end it, and allow what follows.
RULE = re.compile(r"[A-Za-z][A-Za-z0-9_.*-]*(\([^()\x00-\x1f\x7f]{1,2000}\))?")
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
RULES_LIMIT = 64 * 1024  # bytes; the system takes 128 KiB as one argument

T = TypeVar("T")

MOST = 2.0**53  # what JSON's numbers can tell apart
FAULTS = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


def parse(line: bytes) -> Message:
    try:
        data = orjson.loads(line)
    except orjson.JSONDecodeError:
        data = _repaired(line)
    if not isinstance(data, dict):
        return Unknown("not json")
    kind = data.get("type")
    reader = READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        return Unknown(str(kind)[:80])
    try:
        return reader(data)
    except FAULTS:
        return Unknown(f"{kind}, in another shape")


def _is(kind: type[T], value: Any) -> T:
    if not isinstance(value, kind):
        raise TypeError(value)
    return value


def _parent(data: Json) -> str | None:
    parent = data.get("parent_tool_use_id")
    return None if parent is None else _is(str, parent)


def _repaired(line: bytes) -> Any:
    """JavaScript may cut a pair of surrogates in two, which orjson refuses."""
    try:
        text = json.dumps(json.loads(line), ensure_ascii=False)
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return json.loads(whole)
    except (ValueError, RecursionError):
        return None


def _stream_event(data: Json) -> Message:
    event = _is(dict, data["event"])
    reader = STREAM_READERS.get(event["type"])
    # A subagent's words are its own: its tools are shown, its text is not streamed.
    if reader is None or data.get("parent_tool_use_id"):
        return NOISE
    return reader(event)


def _delta(event: Json) -> Message:
    delta = event["delta"]
    kind = delta["type"]
    if kind == "text_delta":
        return Delta(_is(int, event["index"]), b"text", _is(str, delta["text"]))
    if kind == "thinking_delta":
        return Delta(_is(int, event["index"]), b"thinking", _is(str, delta["thinking"]))
    return NOISE


def _message_start(event: Json) -> Message:
    return MessageStart(_is(str, event["message"]["id"]))


def _message_stop(event: Json) -> Message:
    return MessageStop()


def _block_start(event: Json) -> Message:
    return BlockStart(_is(int, event["index"]), _is(str, event["content_block"]["type"]))


def _block_stop(event: Json) -> Message:
    return BlockStop(_is(int, event["index"]))


def _system(data: Json) -> Message:
    reader = SYSTEM_READERS.get(data["subtype"])
    return reader(data) if reader else NOISE


def _began(data: Json) -> Message:
    model, mode = data.get("model") or "", data.get("permissionMode") or ""
    return Began(_uuid(data["session_id"]), str(model), str(mode))


def _working(data: Json) -> Message:
    return Working(str(data.get("status") or ""))


def _retry(data: Json) -> Message:
    status = data.get("error_status")
    return Retry(
        _whole(data["attempt"]),
        _whole(data["max_retries"]),
        _whole(data["retry_delay_ms"]),
        status if isinstance(status, int) else None,
    )


def _assistant(data: Json) -> Message:
    message = data["message"]
    blocks = message["content"]
    return Said(
        message_id=_is(str, message["id"]),
        texts=[_words(block) for block in blocks if block["type"] in ("text", "thinking")],
        tools=[_tool(block) for block in blocks if block["type"].endswith("tool_use")],
        parent=_parent(data),
        is_error=bool(data.get("is_api_error_message") or data.get("error")),
    )


def _words(block: Json) -> tuple[bytes, str]:
    kind: str = block["type"]
    return kind.encode(), _is(str, block[kind])


def _tool(block: Json) -> tuple[str, str, Json]:
    return _is(str, block["id"]), _is(str, block["name"]), _is(dict, block["input"])


def _user(data: Json) -> Message:
    content = data["message"]["content"]
    blocks = content if isinstance(content, list) else []
    parent = _parent(data)
    return ToolResults(
        [_tool_result(block, parent) for block in blocks if block["type"] == "tool_result"]
    )


def _tool_result(block: Json, parent: str | None) -> ToolResult:
    is_error = bool(block.get("is_error"))
    tool_id = _is(str, block["tool_use_id"])
    return ToolResult(tool_id, _flat(block.get("content")), is_error, parent)


def _flat(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(part.get("text") or f"[{part['type']}]" for part in parts)


def _rate_limit(data: Json) -> Message:
    info = data["rate_limit_info"]
    resets_at = info.get("resetsAt")
    return RateLimit(
        str(info.get("status", "")),
        str(info.get("rateLimitType") or ""),
        None if resets_at is None else _whole(resets_at),
    )


def _result(data: Json) -> Message:
    """A turn must end: what is odd in its result counts as absent."""
    spent = _object(data.get("model_usage_since_last_result"))
    status, errors = data.get("api_error_status"), data.get("errors")
    return Result(
        subtype=str(data.get("subtype") or ""),
        is_error=bool(data.get("is_error")),
        text=str(data.get("result") or ""),
        errors=[str(error) for error in _array(errors) if not _is_diagnostic(error)],
        num_turns=_whole(data.get("num_turns")),
        duration_ms=_whole(data.get("duration_ms")),
        usage=_object(data.get("usage")),
        spent=[_spent(model, _object(figures)) for model, figures in spent.items()],
        terminal_reason=str(data.get("terminal_reason") or ""),
        api_status=status if isinstance(status, int) else None,
        cli_id=_uuid(data.get("session_id")),
    )


def _uuid(value: Any) -> str:
    """It becomes an argument and a file's name, and an agent can write what it likes here."""
    return value if isinstance(value, str) and ID.fullmatch(value) else ""


def _is_diagnostic(error: Any) -> bool:
    return str(error).startswith("[ede_diagnostic]")


def _spent(model: str, figures: Json) -> Spent:
    return Spent(
        model=model.replace("\0", "")[:200],
        input_tokens=_whole(figures.get("inputTokens")),
        output_tokens=_whole(figures.get("outputTokens")),
        cache_read_tokens=_whole(figures.get("cacheReadInputTokens")),
        cache_write_tokens=_whole(figures.get("cacheCreationInputTokens")),
        cost_usd=_number(figures.get("costUSD")),
    )


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _array(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: Any) -> float:
    try:
        number = float(value) if isinstance(value, int | float) else 0.0
    except OverflowError:
        return 0.0
    return number if math.isfinite(number) else 0.0


def _whole(value: Any) -> int:
    return int(min(max(_number(value), 0.0), MOST))


def _control_response(data: Json) -> Message:
    response = data["response"]
    ok = response["subtype"] == "success"
    body = response.get("response")
    error = str(response.get("error") or "")
    return Answer(_is(str, response["request_id"]), ok, _object(body), error)


def _control_request(data: Json) -> Message:
    request = data["request"]
    if request["subtype"] != "can_use_tool":
        return Request(_is(str, data["request_id"]), str(request["subtype"])[:80])
    return Ask(
        request_id=_is(str, data["request_id"]),
        tool=_is(str, request["tool_name"]),
        input=_is(dict, request["input"]),
        suggestions=[
            _is(dict, suggested) for suggested in _array(request.get("permission_suggestions"))
        ],
    )


def _control_cancel(data: Json) -> Message:
    return AskWithdrawn(_is(str, data["request_id"]))


def _noise(data: Json) -> Message:
    return NOISE


Reader = Callable[[Json], Message]

READERS: dict[str, Reader] = {
    "stream_event": _stream_event,
    "system": _system,
    "assistant": _assistant,
    "user": _user,
    "rate_limit_event": _rate_limit,
    "result": _result,
    "control_response": _control_response,
    "control_request": _control_request,
    "control_cancel_request": _control_cancel,
    "command_lifecycle": _noise,
    "conversation_reset": _noise,
    "keep_alive": _noise,
}
STREAM_READERS: dict[str, Reader] = {
    "content_block_delta": _delta,
    "message_start": _message_start,
    "message_stop": _message_stop,
    "content_block_start": _block_start,
    "content_block_stop": _block_stop,
}
SYSTEM_READERS: dict[str, Reader] = {"init": _began, "status": _working, "api_retry": _retry}


def prompt(text: str, uuid: str) -> bytes:
    message = {"role": "user", "content": text}
    return _line({"type": "user", "message": message, "uuid": uuid})


def request(request_id: str, subtype: str, **fields: Any) -> bytes:
    body = {"subtype": subtype, **fields}
    return _line({"type": "control_request", "request_id": request_id, "request": body})


def allow(ask: Ask, rules: list[Json]) -> bytes:
    answer: Json = {"behavior": "allow", "updatedInput": ask.input}
    if rules:
        answer["updatedPermissions"] = rules
    return _reply(ask.request_id, answer)


def deny(ask: Ask, message: str) -> bytes:
    return _reply(ask.request_id, {"behavior": "deny", "message": message})


def session_rules(ask: Ask) -> list[Json]:
    """What must be allowed so that this is not asked again in this conversation."""
    offered = [rule for rule in ask.suggestions if rule.get("type") == "addRules"]
    plain = {"type": "addRules", "rules": [{"toolName": ask.tool}], "behavior": "allow"}
    return [{**rule, "destination": "session"} for rule in offered or [plain]]


def rule_names(rules: list[Json]) -> list[str]:
    """The same rules as `--allowedTools` spells them: Bash(ls:*)."""
    named = [_object(rule) for update in rules for rule in _array(update.get("rules"))]
    names = [_rule_name(rule) for rule in named if isinstance(rule.get("toolName"), str)]
    return [name for name in names if RULE.fullmatch(name)]


def _rule_name(rule: Json) -> str:
    content = rule.get("ruleContent")
    return f"{rule['toolName']}({content})" if content else str(rule["toolName"])


def refuse(request_id: str, reason: str) -> bytes:
    response = {"subtype": "error", "request_id": request_id, "error": reason}
    return _line({"type": "control_response", "response": response})


def _reply(request_id: str, answer: Json) -> bytes:
    response = {"subtype": "success", "request_id": request_id, "response": answer}
    return _line({"type": "control_response", "response": response})


def _line(data: Json) -> bytes:
    return orjson.dumps(data) + b"\n"
