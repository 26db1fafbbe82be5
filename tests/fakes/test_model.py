import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import aiohttp
import orjson
import pytest

from .model import (
    FakeModel,
    big,
    both,
    cut,
    hang,
    status,
    subscription_limit,
    text,
    thinking,
    tool,
)
from .model.replies import _words

TOOLS = [{"name": "Bash"}]


@pytest.fixture
async def model() -> AsyncIterator[FakeModel]:
    async with FakeModel() as model:
        yield model


@pytest.fixture
async def http(model: FakeModel) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(model.url) as http:
        yield http


def asking(prompt: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    return {"model": "m", "messages": messages, "tools": TOOLS, "stream": True, **more}


async def events(http: aiohttp.ClientSession, body: dict[str, Any]) -> list[dict[str, Any]]:
    async with http.post("/v1/messages", json=body) as response:
        assert response.status == 200
        lines = (await response.text()).splitlines()
    return [orjson.loads(line[6:]) for line in lines if line.startswith("data: ")]


async def said(http: aiohttp.ClientSession, prompt: str) -> str:
    deltas = [e["delta"] for e in await events(http, asking(prompt)) if "delta" in e]
    return "".join(d.get("text", "") for d in deltas)


async def soon(waited_for: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(waited_for, 5)


async def test_it_streams_the_events_of_the_api_in_order(
    model: FakeModel, http: aiohttp.ClientSession
) -> None:
    model.add(text("one two", chunks=2))
    kinds = [e["type"] for e in await events(http, asking("hi"))]
    assert kinds == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


async def test_it_answers_in_one_piece_when_not_asked_to_stream(
    model: FakeModel, http: aiohttp.ClientSession
) -> None:
    model.add(both(thinking("hm"), text("so"), tool("Bash", {"command": "ls"})))
    async with http.post("/v1/messages", json=asking("hi", stream=False)) as response:
        message = await response.json()
    assert [b["type"] for b in message["content"]] == ["thinking", "text", "tool_use"]
    assert message["stop_reason"] == "tool_use"


async def test_rules_go_before_the_script_and_the_script_before_the_echo(
    model: FakeModel, http: aiohttp.ClientSession
) -> None:
    model.add(text("scripted"))
    model.on("apples", text("first apple"), text("second apple"))
    prompts = ["apples", "pears", "apples", "apples"]
    answers = [await said(http, prompt) for prompt in prompts]
    assert answers == ["first apple", "scripted", "second apple", "You said: apples"]


async def test_side_requests_leave_the_script_alone(
    model: FakeModel, http: aiohttp.ClientSession
) -> None:
    model.add(text("for the conversation"))
    await events(http, asking("a title, please", tools=[]))
    assert await said(http, "hi") == "for the conversation"
    assert (len(model.requests), len(model.side_requests)) == (1, 1)


async def test_a_held_reply_waits_for_its_release(
    model: FakeModel, http: aiohttp.ClientSession
) -> None:
    model.add(text("one two three", hold_after=1))
    turn = asyncio.create_task(said(http, "hi"))
    request = await soon(model.wait_for_request(1))
    assert request.last_text == "hi"
    assert not turn.done()
    model.release()
    assert await soon(turn) == "one two three"


async def test_a_client_that_left_does_not_take_the_release_of_another(
    model: FakeModel, http: aiohttp.ClientSession
) -> None:
    model.add(text("gone", hold_after=0), text("here", hold_after=0))
    gone = asyncio.create_task(said(http, "hi"))
    await soon(model.wait_for_request(1))
    gone.cancel()
    here = asyncio.create_task(said(http, "hi"))
    await soon(model.wait_for_request(2))
    await asyncio.sleep(0.05)
    model.release()
    assert await soon(here) == "here"


@pytest.mark.parametrize("after", [0, 3])
async def test_a_cut_reply_breaks_the_connection(
    model: FakeModel, http: aiohttp.ClientSession, after: int
) -> None:
    model.add(cut(after))
    with pytest.raises(aiohttp.ClientError):
        await said(http, "hi")


@pytest.mark.parametrize("after", [0, 3])
async def test_a_hanging_reply_never_ends(
    model: FakeModel, http: aiohttp.ClientSession, after: int
) -> None:
    model.add(hang(after))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(said(http, "hi"), 0.1)


async def test_a_status_is_answered_as_often_as_it_says(
    model: FakeModel, http: aiohttp.ClientSession
) -> None:
    model.add(status(529, times=2, retry_after=1), subscription_limit(1_900_000_000))
    answers = []
    for _ in range(3):
        async with http.post("/v1/messages", json=asking("hi")) as response:
            error = (await response.json())["error"]["type"]
            answers.append((response.status, error, response.headers.get("retry-after")))
    overloaded = (529, "overloaded_error", "1")
    assert answers == [overloaded, overloaded, (429, "rate_limit_error", None)]


async def test_a_refusal_stays_however_often_the_same_step_is_tried(
    model: FakeModel, http: aiohttp.ClientSession
) -> None:
    model.add(status(400))
    answers = []
    for prompt in ("bad", "bad", "good"):
        async with http.post("/v1/messages", json=asking(prompt)) as response:
            answers.append(response.status)
    assert answers == [400, 400, 200]


async def test_the_last_text_leaves_out_reminders_and_prompts_without_an_answer(
    model: FakeModel, http: aiohttp.ClientSession
) -> None:
    blocks = ["<system-reminder>date</system-reminder>", "lost\n", "next"]
    content = [{"type": "text", "text": text} for text in blocks]
    reminder = {"role": "system", "content": "later"}
    body = asking("")
    body["messages"] = [{"role": "user", "content": content}, reminder]
    await events(http, body)
    assert model.requests[0].last_text == "next"
    assert model.requests[0].history == [("user", "lost\n\nnext")]


async def test_a_demo_run_uses_the_tool_and_reports(
    model: FakeModel, http: aiohttp.ClientSession
) -> None:
    use = [e for e in await events(http, asking("run uname -a")) if "content_block" in e]
    assert use[0]["content_block"]["name"] == "Bash"
    result = [{"type": "tool_result", "tool_use_id": "x", "content": "Linux"}]
    body = asking("run uname -a")
    body["messages"] += [{"role": "user", "content": result}]
    assert "Linux" in str(await events(http, body))


async def test_it_is_scripted_over_http_as_well(
    model: FakeModel, http: aiohttp.ClientSession
) -> None:
    steps = [{"do": "text", "text": "by post"}, {"do": "text", "text": "ruled", "on": "rule"}]
    async with http.post("/control/script", json=steps) as response:
        assert await response.json() == {"left": 2}
    assert await said(http, "a rule") == "ruled"
    assert await said(http, "hi") == "by post"
    async with http.get("/control/requests") as response:
        seen = await response.json()
    assert seen["received"] == 2
    assert seen["requests"][1]["body"]["messages"][0]["content"] == "hi"


async def test_an_unknown_address_is_an_api_error(
    model: FakeModel, http: aiohttp.ClientSession
) -> None:
    async with http.get("/v1/nothing") as response:
        body = await response.json()
    assert (response.status, body["error"]["type"]) == (404, "not_found_error")


async def test_a_big_answer_is_as_big_as_asked(
    model: FakeModel, http: aiohttp.ClientSession
) -> None:
    model.add(big(1_000_000))
    assert len(await said(http, "hi")) == 1_000_000


@pytest.mark.parametrize("given", ["", " ", "one", "one two", " a\n\n b  c \n", "\n"])
def test_words_join_to_what_they_were(given: str) -> None:
    assert "".join(_words(given)) == given
