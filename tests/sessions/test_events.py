"""The lines that every front end reads."""

import json

import pytest

from sessions import events
from sessions.events import LONGEST_OUTPUT

AT = "2026-01-02T03:04:05.006Z"
HARD = '\0 \n\r\u2028 " \\ \U0001f469\u200d\U0001f680 ünï </script>'


def test_a_line_is_one_line_of_json() -> None:
    line = events.line(7, 2, "tool", AT, {"id": "t", "input": {"text": HARD}})
    assert line.count(b"\n") == 1
    assert line.endswith(b"}\n")
    expected = {"seq": 7, "turn": 2, "type": "tool", "at": AT, "id": "t", "input": {"text": HARD}}
    assert json.loads(line) == expected
    assert list(json.loads(line)) == ["seq", "turn", "type", "at", "id", "input"]


@pytest.mark.parametrize("kind", ["text", "thinking"])
def test_a_line_of_text_is_the_same_as_any_other(kind: str) -> None:
    for text in ("", HARD, "x" * 70_000, "100%d %b {}"):
        quick = events.text_line(2**53, 1, kind.encode(), AT.encode(), 3, 4, text)
        usual = events.line(2**53, 1, kind, AT, {"block": 3, "offset": 4, "text": text})
        assert quick == usual


def test_an_instant_is_iso_8601_in_utc() -> None:
    assert events.instant(0) == "1970-01-01T00:00:00.000Z"
    assert events.instant(1_767_323_045_006) == AT
    assert events.instant(1_767_323_045_999) == "2026-01-02T03:04:05.999Z"


def test_now_is_in_milliseconds() -> None:
    assert 1_700_000_000_000 < events.milliseconds() < 10_000_000_000_000


def test_json_text_is_text() -> None:
    assert events.json_text(["a", HARD]) == json.dumps(
        ["a", HARD], ensure_ascii=False, separators=(",", ":")
    )


def test_output_is_whole_up_to_its_limit() -> None:
    whole = events.tool_result("t", "x" * LONGEST_OUTPUT, is_error=False)
    assert whole == {"id": "t", "output": "x" * LONGEST_OUTPUT, "is_error": False}


def test_long_output_is_cut_in_the_middle_and_says_so() -> None:
    output = "a" * LONGEST_OUTPUT + "b" * LONGEST_OUTPUT
    cut = events.tool_result("t", output, is_error=True)
    assert (cut["truncated"], cut["is_error"]) == (True, True)
    assert cut["output"].startswith("a" * 1000)
    assert cut["output"].endswith("b" * 1000)
    assert f"\n… {LONGEST_OUTPUT} characters left out …\n" in cut["output"]
    assert len(cut["output"]) < LONGEST_OUTPUT + 100


@pytest.mark.parametrize("outcome", ["ok", "error", "interrupted", "cancelled", "timeout"])
def test_a_done_has_all_its_fields(outcome: events.Outcome) -> None:
    assert events.done(outcome, "session-1") == {
        "outcome": outcome,
        "result": "",
        "session_id": "session-1",
        "is_error": outcome != "ok",
        "cost_usd": 0.0,
        "usage": {},
        "num_turns": 0,
        "duration_ms": 0,
    }


def test_a_done_tells_what_it_was_given() -> None:
    done = events.done(
        "ok", "s", result="r", cost_usd=None, usage={"a": 1}, num_turns=2, duration_ms=3
    )
    assert (done["result"], done["cost_usd"], done["usage"]) == ("r", None, {"a": 1})
    assert (done["num_turns"], done["duration_ms"]) == (2, 3)
