"""The CLI's lines as they were recorded, and ours to it."""

import typing
from typing import Any

import orjson
import pytest

from sessions import protocol
from sessions.messages import (
    NOISE,
    Answer,
    Ask,
    AskWithdrawn,
    Began,
    BlockStart,
    BlockStop,
    Delta,
    Message,
    MessageStart,
    MessageStop,
    RateLimit,
    Result,
    Retry,
    Said,
    Spent,
    ToolResult,
    ToolResults,
    Working,
)
from tests.sessions.recorded import RECORDED

SAID_NOTHING = ToolResults([])

MEANS: dict[str, Message] = {
    "assistant/text": Said("msg_fake00000002", [(b"text", "ok")], [], None, is_error=False),
    "assistant/text/aborted": Said("msg_fake00000001", [(b"text", "a")], [], None, is_error=False),
    "assistant/text/error": Said(
        "1fc8b295-214c-40f6-a10d-70f5cd959b3c",
        [(b"text", "API Error: 400 messages: bad thing")],
        [],
        None,
        is_error=True,
    ),
    "assistant/text/local": Said(
        "f9b129ea-1b91-4677-a7c8-87366b634c8c",
        [(b"text", "Not enough messages to compact.")],
        [],
        None,
        is_error=False,
    ),
    "assistant/text/nested": Said(
        "msg_fake00000004", [(b"text", "sub says hi")], [], "toolu_fake00000001x0", is_error=False
    ),
    "assistant/thinking": Said(
        "msg_fake00000001", [(b"thinking", "Let me think hard")], [], None, is_error=False
    ),
    "assistant/tool_use": Said(
        "msg_fake00000002",
        [],
        [("toolu_fake00000002x0", "Bash", {"command": "echo x"})],
        None,
        is_error=False,
    ),
    "assistant/tool_use/nested": Said(
        "msg_fake00000003",
        [],
        [("toolu_fake00000003x0", "Bash", {"command": "echo in sub"})],
        "toolu_fake00000001x0",
        is_error=False,
    ),
    "control_cancel_request": AskWithdrawn("5d572f50-1adb-4faa-bac2-d44328836439"),
    "control_request/can_use_tool/Read": Ask(
        "003ec70b-116c-48c0-a4cc-092579f965a8",
        "Read",
        {"file_path": "/etc/hostname"},
        [
            {
                "type": "addRules",
                "rules": [{"toolName": "Read", "ruleContent": "//etc/**"}],
                "behavior": "allow",
                "destination": "session",
            }
        ],
    ),
    "control_response/error": Answer("r-b08876", ok=False, error="Model 'nope' not found"),
    "control_response/success": Answer("r-72f66a", ok=True),
    "control_response/success/body": Answer("r-ddcb78", ok=True),
    "rate_limit_event/allowed": RateLimit("allowed", "", None),
    "rate_limit_event/rejected": RateLimit("rejected", "five_hour", 1795208804),
    "stream_event/content_block_delta/text_delta": Delta(0, b"text", "a"),
    "stream_event/content_block_delta/thinking_delta": Delta(0, b"thinking", "Let"),
    "stream_event/content_block_start/text": BlockStart(0, "text"),
    "stream_event/content_block_start/thinking": BlockStart(0, "thinking"),
    "stream_event/content_block_start/tool_use": BlockStart(0, "tool_use"),
    "stream_event/content_block_stop": BlockStop(0),
    "stream_event/message_start": MessageStart("msg_fake00000002"),
    "stream_event/message_stop": MessageStop(),
    "system/api_retry": Retry(1, 2, 576, None),
    "system/init": Began("bbd25a22-5212-4a09-b926-2b7ae8e1cf7f", "glm-5.1:cloud", "default"),
    "system/status/None": Working(""),
    "system/status/compacting": Working("compacting"),
    "system/status/requesting": Working("requesting"),
    "user/string/replay": SAID_NOTHING,
    "user/string/synthetic": SAID_NOTHING,
    "user/text/interrupted": SAID_NOTHING,
    "user/text/nested": SAID_NOTHING,
    "user/text/synthetic": SAID_NOTHING,
    "user/tool_result/str": ToolResults(
        [
            ToolResult(
                "toolu_fake00000001x0",
                "Structured output provided successfully",
                is_error=False,
                parent=None,
            )
        ]
    ),
    "user/tool_result/str/error": ToolResults(
        [ToolResult("toolu_fake00000003x0", "Exit code 6", is_error=True, parent=None)]
    ),
    "user/tool_result/str/nested": ToolResults(
        [
            ToolResult(
                "toolu_fake00000003x0", "in sub", is_error=False, parent="toolu_fake00000001x0"
            )
        ]
    ),
    **dict.fromkeys(
        [
            "command_lifecycle/cancelled",
            "command_lifecycle/completed",
            "command_lifecycle/queued",
            "command_lifecycle/started",
            "conversation_reset",
            "stream_event/content_block_delta/input_json_delta",
            "stream_event/content_block_delta/signature_delta",
            "stream_event/message_delta",
            "system/background_tasks_changed",
            "system/compact_boundary",
            "system/informational",
            "system/task_notification",
            "system/task_progress",
            "system/task_started",
            "system/task_updated",
            "system/thinking_tokens",
        ],
        NOISE,
    ),
}

RESULTS: dict[str, tuple[bool, str, int | None, str]] = {  # error, why it ended, status, its words
    "success/completed": (False, "completed", None, "You said: x"),
    "success/None": (False, "", None, "/help isn't available in this environment."),
    "success/None/local": (False, "", None, ""),
    "success/api_error": (True, "api_error", None, "API Error: Connection dropped (ECONNRESET)."),
    "success/api_error/400": (True, "api_error", 400, "API Error: 400 messages: bad thing"),
    "success/api_error/401": (True, "api_error", 401, "Failed to authenticate. API Error: 401"),
    "success/api_error/403": (True, "api_error", 403, "Failed to authenticate. API Error: 403"),
    "success/api_error/404": (True, "api_error", 404, "There's an issue with the selected model"),
    "success/api_error/429": (True, "api_error", 429, "API Error: Request rejected (429)"),
    "success/api_error/529": (True, "api_error", 529, "API Error: 529"),
    "error_during_execution/aborted_streaming": (True, "aborted_streaming", None, ""),
    "error_during_execution/aborted_tools": (True, "aborted_tools", None, ""),
    "error_during_execution/None/noreason": (True, "", None, "No conversation found with session"),
    "error_max_turns/max_turns": (True, "max_turns", None, "Reached maximum number of turns (2)"),
    "error_max_budget_usd/budget_exhausted": (
        True,
        "budget_exhausted",
        None,
        "Reached maximum budget ($0.0001)",
    ),
}


def parsed(line: object) -> Message:
    return protocol.parse(orjson.dumps(line))


@pytest.mark.parametrize("kind", sorted(MEANS))
def test_a_recorded_line_is_understood(kind: str) -> None:
    assert parsed(RECORDED[kind]) == MEANS[kind]


@pytest.mark.parametrize("kind", sorted(RESULTS))
def test_a_recorded_result_is_understood(kind: str) -> None:
    result = parsed(RECORDED[f"result/{kind}"])
    assert isinstance(result, Result)
    is_error, reason, status, words = RESULTS[kind]
    assert (result.is_error, result.terminal_reason, result.api_status) == (
        is_error,
        reason,
        status,
    )
    assert result.subtype == kind.partition("/")[0]
    said = result.text or "; ".join(result.errors)
    assert said.startswith(words)
    assert words or not said  # what the CLI says to itself is shown to nobody


def test_what_a_turn_cost_is_its_own_and_not_the_sum() -> None:
    result = parsed(RECORDED["result/success/completed"])
    assert isinstance(result, Result)
    line = RECORDED["result/success/completed"]
    [(model, own)] = line["model_usage_since_last_result"].items()
    assert result.spent == [
        Spent(
            model,
            own["inputTokens"],
            own["outputTokens"],
            own["cacheReadInputTokens"],
            own["cacheCreationInputTokens"],
            own["costUSD"],
        )
    ]
    twice = {**line, "total_cost_usd": 99, "modelUsage": {model: {**own, "costUSD": 99}}}
    assert parsed(twice) == result


@pytest.mark.parametrize("tool", ["AskUserQuestion", "Bash", "Edit", "Read", "WebFetch", "Write"])
def test_a_recorded_question_is_understood(tool: str) -> None:
    line = RECORDED[f"control_request/can_use_tool/{tool}"]
    ask = parsed(line)
    assert isinstance(ask, Ask)
    assert (ask.tool, ask.request_id, ask.input) == (
        tool,
        line["request_id"],
        line["request"]["input"],
    )
    assert ask.suggestions == line["request"].get("permission_suggestions", [])


def test_a_tool_result_of_parts_is_joined() -> None:
    [result] = typing.cast(ToolResults, parsed(RECORDED["user/tool_result/list"])).results
    assert result.output.startswith("Async agent launched successfully.")
    content = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
    block = {"type": "tool_result", "tool_use_id": "t", "content": content}
    line = {"type": "user", "message": {"content": [block]}}
    assert parsed(line) == ToolResults(
        [ToolResult("t", "a\n[image]\nb", is_error=False, parent=None)]
    )


def test_every_recorded_line_has_a_meaning_here() -> None:
    questions = {kind for kind in RECORDED if kind.startswith("control_request")}
    results = {f"result/{kind}" for kind in RESULTS}
    assert set(RECORDED) == {*MEANS, *questions, *results, "user/tool_result/list"}


def test_a_subagents_words_are_not_streamed_as_the_answers() -> None:
    line = RECORDED["stream_event/content_block_delta/text_delta"]
    assert parsed({**line, "parent_tool_use_id": "toolu_1"}) == NOISE


def test_the_order_of_keys_does_not_matter() -> None:
    for kind, line in RECORDED.items():
        turned = dict(reversed(line.items()))
        assert parsed(turned) == parsed(line), kind


# What we say to it


def spoken(line: bytes) -> Any:
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    return orjson.loads(line)


def test_a_prompt_is_one_line_whatever_is_in_it() -> None:
    for text in ("Go.", "two\nlines\r\u2028", '\0 \U0001f469 \\ " ', "x" * 200_000):
        assert spoken(protocol.prompt(text, "uuid-1")) == {
            "type": "user",
            "message": {"role": "user", "content": text},
            "uuid": "uuid-1",
        }


def test_a_request_carries_its_fields() -> None:
    assert spoken(protocol.request("r1", "set_model", model="opus")) == {
        "type": "control_request",
        "request_id": "r1",
        "request": {"subtype": "set_model", "model": "opus"},
    }


def question(tool: str) -> Ask:
    ask = parsed(RECORDED[f"control_request/can_use_tool/{tool}"])
    assert isinstance(ask, Ask)
    return ask


def answered(line: bytes) -> Any:
    reply = spoken(line)
    assert reply["type"] == "control_response"
    assert reply["response"]["subtype"] == "success"
    return reply["response"]


def test_a_yes_lets_the_tool_run_as_it_was_asked_for() -> None:
    ask = question("Bash")
    reply = answered(protocol.allow(ask, []))
    assert reply["request_id"] == ask.request_id
    assert reply["response"] == {"behavior": "allow", "updatedInput": ask.input}


def test_a_no_says_why() -> None:
    ask = question("Write")
    reply = answered(protocol.deny(ask, "Not today."))
    assert reply["response"] == {"behavior": "deny", "message": "Not today."}


def test_a_yes_for_the_session_never_switches_the_whole_session_to_yes() -> None:
    ask = question("Bash")
    assert {one["type"] for one in ask.suggestions} == {"addRules", "addDirectories", "setMode"}
    rules = protocol.session_rules(ask)
    assert rules == [
        {
            "type": "addRules",
            "rules": [{"toolName": "Bash", "ruleContent": "touch z *"}],
            "behavior": "allow",
            "destination": "session",
        }
    ]
    reply = answered(protocol.allow(ask, rules))
    assert reply["response"]["updatedPermissions"] == rules
    assert protocol.rule_names(rules) == ["Bash(touch z *)"]


@pytest.mark.parametrize("tool", ["Write", "Edit", "AskUserQuestion"])
def test_a_tool_that_offers_no_rule_is_allowed_as_a_whole(tool: str) -> None:
    rules = protocol.session_rules(question(tool))
    assert rules == [
        {
            "type": "addRules",
            "rules": [{"toolName": tool}],
            "behavior": "allow",
            "destination": "session",
        }
    ]
    assert protocol.rule_names(rules) == [tool]


def test_rules_of_an_odd_shape_have_no_names() -> None:
    assert protocol.rule_names([{}, {"rules": 7}, {"rules": [7, {}, {"toolName": "Bash"}]}]) == [
        "Bash"
    ]


def test_a_refusal_names_its_request() -> None:
    reply = spoken(protocol.refuse("r1", "No such thing."))
    assert reply["response"] == {"subtype": "error", "request_id": "r1", "error": "No such thing."}
