"""Lines that nobody would write: none of them may raise, or pass for what it is not."""

import json
import types
import typing
from dataclasses import fields, is_dataclass
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessions import messages, protocol
from sessions.messages import NOISE, Delta, Message, Result, Said, ToolResult, ToolResults, Unknown
from tests.sessions.recorded import RECORDED


def parsed(line: object) -> Message:
    return protocol.parse(orjson.dumps(line))


def odd(line: bytes) -> str:
    message = protocol.parse(line)
    assert isinstance(message, Unknown)
    return message.kind


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"", "not json"),
        (b"  ", "not json"),
        (b"Error: something", "not json"),
        (b"[]", "not json"),
        (b"null", "not json"),
        (b"\xff\xfe\x00", "not json"),
        (b"\0" * 100, "not json"),
        (b'{"type":"text"', "not json"),
        (b"[" * 100_000, "not json"),
        (b'{"a":' * 100_000, "not json"),
        (b"{}", "None"),
        (b'{"type":7}', "7"),
        (b'{"type":["system"]}', "['system']"),
        (b'{"type":"later"}', "later"),
        (b'{"type":"' + b"x" * 1000 + b'"}', "x" * 80),
        (b'{"type":"system"}', "system, in another shape"),
        (b'{"type":"system","subtype":["init"]}', "system, in another shape"),
        (b'{"type":"stream_event","event":[]}', "stream_event, in another shape"),
        (
            b'{"type":"control_request","request":{"subtype":"later"}}',
            "control_request, in another shape",
        ),
    ],
)
def test_a_line_that_is_unknown_harms_nobody(line: bytes, kind: str) -> None:
    assert odd(line) == kind


def test_an_unknown_event_of_a_known_kind_is_noise() -> None:
    assert parsed({"type": "system", "subtype": "later"}) == NOISE
    assert parsed({"type": "stream_event", "event": {"type": "later"}}) == NOISE


def test_a_line_of_seventy_kilobytes_and_of_sixteen_mebibytes() -> None:
    line = RECORDED["stream_event/content_block_delta/text_delta"]
    for size in (70_000, 16 * 1024 * 1024):
        event = {**line["event"], "delta": {"type": "text_delta", "text": "ü" * size}}
        assert parsed({**line, "event": event}) == Delta(0, b"text", "ü" * size)


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (r"a\ud83d", "a\ufffd"),
        (r"\ude00b", "\ufffdb"),
        (r"\ude00\ud83d", "\ufffd\ufffd"),
        (r"\ud83d\ude00", "\U0001f600"),
        (r"\ud83d \ud83d\ude00", "\ufffd \U0001f600"),
        (r"\u0000", "\0"),
    ],
)
def test_half_a_pair_of_surrogates_costs_one_character(escaped: str, text: str) -> None:
    line = (
        '{"type":"stream_event","event":{"type":"content_block_delta","index":3,'
        f'"delta":{{"type":"text_delta","text":"{escaped}"}}}}}}'
    )
    assert protocol.parse(line.encode()) == Delta(3, b"text", text)


def test_a_result_ends_a_turn_whatever_is_odd_in_it() -> None:
    for line in (
        b'{"type":"result"}',
        b'{"type":"result","usage":[],"errors":"x","model_usage_since_last_result":[1]}',
        b'{"type":"result","num_turns":NaN,"duration_ms":1e400,"api_error_status":"x"}',
        b'{"type":"result","model_usage_since_last_result":{"m":{"costUSD":-Infinity}}}',
        b'{"type":"result","model_usage_since_last_result":{"m":7},"duration_ms":%s}'
        % (b"9" * 400),
    ):
        result = protocol.parse(line)
        assert isinstance(result, Result)
        assert (result.num_turns, result.usage, result.api_status) == (0, {}, None)
        assert [spent.cost_usd for spent in result.spent] in ([], [0.0])
        orjson.dumps(result)


# Any line at all

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=5)
    | st.sampled_from(["text", "tool_use", "tool_result", "text_delta", "init", "can_use_tool"])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def changed_lines(draw: st.DrawFn) -> bytes:
    """A recorded line, with anything at all somewhere in it, or something gone."""
    line = json.loads(json.dumps(draw(st.sampled_from(list(RECORDED.values())))))
    for _ in range(draw(st.integers(1, 3))):
        change(draw, line)
    return json.dumps(line).encode()


def change(draw: st.DrawFn, inner: Any) -> None:
    while True:
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        if not keys:
            return
        key = draw(st.sampled_from(keys))
        deeper = isinstance(inner[key], dict | list) and draw(st.booleans())
        if deeper:
            inner = inner[key]
            continue
        if draw(st.booleans()):
            inner[key] = draw(VALUES)
        else:
            del inner[key]
        return


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of the type that a field promises, all the way down."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, one) for one in inner)
    if not isinstance(value, origin or kind):
        return False
    if origin is list:
        return all(fits(item, inner[0]) for item in value)
    if origin is tuple:
        return all(map(fits, value, inner))
    if origin is dict:
        return all(isinstance(key, str) for key in value)
    return not is_dataclass(kind) or sound(value)


def sound(message: Any) -> bool:
    hints = typing.get_type_hints(type(message), vars(messages))
    return all(fits(getattr(message, item.name), hints[item.name]) for item in fields(message))


@settings(max_examples=400, deadline=None)
@given(changed_lines())
def test_what_is_made_of_any_line_is_of_the_types_that_it_promises(line: bytes) -> None:
    message = protocol.parse(line)
    assert sound(message), message
    orjson.dumps(message, default=str)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_at_all_raise(line: bytes) -> None:
    assert sound(protocol.parse(line))


def test_the_judge_of_types_sees_what_is_wrong() -> None:
    assert not sound(Delta("0", b"text", "a"))  # type: ignore[arg-type]
    assert not sound(Said("id", [(b"text", None)], [], None, is_error=False))  # type: ignore[list-item]
    assert not sound(ToolResults([ToolResult("id", "out", is_error=False, parent=7)]))  # type: ignore[arg-type]
