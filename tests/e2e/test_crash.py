"""Something is killed: the CLI, or the whole server. Nothing is lost, and nothing runs twice."""

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from main import App
from sessions.admission import Policy
from tests.e2e import processes
from tests.e2e.api import Api, Event, Refused, Stream, last, text_of
from tests.e2e.inside import hosting, put_to_sleep, user
from tests.e2e.server import Server, serving
from tests.fakes.model import FakeModel, Reply, hang, text, tool

MOMENTS: dict[str, tuple[Reply, str]] = {
    "in mid-text": (text("one two three four", hold_after=2), "text"),
    "in mid-tool": (tool("Bash", {"command": "echo ran >> ran.txt; sleep 1000"}), "tool"),
    "before the first byte": (hang(), "status"),
}


async def written_down(data_dir: Path, words: str) -> None:
    """The CLI keeps what it hears for a moment before it writes it to its own file."""
    home = data_dir / "users" / "admin" / ".claude" / "projects"
    await processes.until(lambda: any(words in f.read_text() for f in home.rglob("*.jsonl")))


async def reach(model: FakeModel, session_id: str, stream: Stream, sign: str) -> None:
    """Until the turn stands where the test wants it."""
    await stream.until(sign)
    if sign == "tool":
        await processes.until(lambda: processes.runs(session_id, "sleep"))
    await model.wait_for_request(2)


# The CLI


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_turn_whose_cli_is_killed_ends_in_an_error_and_the_next_resumes(
    api: Api, model: FakeModel, moment: str
) -> None:
    reply, sign = MOMENTS[moment]
    model.on("go", reply)
    session = await api.create()
    await api.ask(session["id"], "remember the word heron")
    stream = await api.query(session["id"], "go")
    await reach(model, session["id"], stream, sign)
    behind = await api.query(session["id"], "and then")
    processes.kill(processes.cli_of(session["id"]))
    events = await stream.rest()
    assert last(events)["outcome"] == "error"
    errors = [event for event in events if event["type"] == "error"]
    assert [error["code"] for error in errors] == ["claude_died"]
    assert "exit 137" in errors[0]["message"]
    assert last(await behind.rest())["outcome"] == "ok"
    assert "heron" in str(model.requests[-1].history)
    assert model.received == 3
    assert not processes.runs(session["id"], "sleep")


async def test_a_cli_killed_while_idle_is_resumed_by_the_next_prompt(
    api: Api, model: FakeModel
) -> None:
    session = await api.create()
    await api.ask(session["id"], "remember the word heron")
    processes.kill(processes.cli_of(session["id"]))
    await api.until_state(session["id"], "asleep")
    assert last(await api.ask(session["id"], "which word?"))["outcome"] == "ok"
    assert "heron" in str(model.requests[-1].history)
    assert model.received == 2


async def test_a_session_whose_cli_never_heard_of_its_first_prompt_begins_with_the_next(
    api: Api, model: FakeModel
) -> None:
    session = await api.create()
    await api.until_state(session["id"], "idle")
    processes.kill(processes.cli_of(session["id"]), signal.SIGSTOP)
    stream = await api.query(session["id"], "hello")
    await stream.until("status", state="running")
    processes.kill(processes.cli_of(session["id"]))
    assert last(await stream.rest())["outcome"] == "error"
    assert last(await api.ask(session["id"], "again"))["outcome"] == "ok"
    assert model.received == 1


async def test_a_cli_killed_while_its_turn_waits_for_a_place_is_started_anew(
    tmp_path: Path, model: FakeModel
) -> None:
    model.add(text("one two", hold_after=1))
    policy = Policy(running=1)
    async with hosting(tmp_path / "data", model, policy) as app, user(app) as api:
        busy, patient = await api.create(), await api.create()
        await api.until_state(patient["id"], "idle")
        working = await api.query(busy["id"], "take your time")
        await working.until("text")
        stream = await api.query(patient["id"], "me too")
        await stream.until("status", state="queued")
        processes.kill(processes.cli_of(patient["id"]))
        await processes.until(lambda: not processes.living(patient["id"]))
        model.release()
        assert last(await working.rest())["outcome"] == "ok"
        assert last(await stream.rest())["result"] == "You said: me too"


async def test_a_conversation_that_the_cli_lost_is_not_begun_anew_unasked(
    app: App, api: Api, model: FakeModel, tmp_path: Path
) -> None:
    session = await api.create()
    await api.ask(session["id"], "remember the word heron")
    await put_to_sleep(app, api, session["id"])
    (kept,) = (tmp_path / "data" / "users" / "admin" / ".claude").rglob("*.jsonl")
    kept.unlink()
    events = await api.ask(session["id"], "which word?")
    assert last(events)["outcome"] == "error"
    (error,) = (event for event in events if event["type"] == "error")
    assert error["code"] == "resume_failed"
    assert '"fresh": true' in error["message"]
    assert model.received == 1
    assert last(await api.ask(session["id"], "then begin anew", fresh=True))["outcome"] == "ok"
    assert last(await api.ask(session["id"], "and go on"))["outcome"] == "ok"
    history = str(model.requests[-1].history)
    assert "then begin anew" in history
    assert "heron" not in history


# The server


@dataclass
class Scene:
    """A session that remembers a word, and a reader that follows it."""

    server: Server
    model: FakeModel
    api: Api
    session_id: str
    live: Stream

    async def crash(self) -> list[Event]:
        """Kill the server; what its reader had seen until then."""
        await self.server.kill()
        await processes.until(lambda: not processes.living(self.session_id), seconds=2)
        return list(self.live.seen)

    @asynccontextmanager
    async def again(self) -> AsyncIterator[Api]:
        await self.server.restart()
        async with self.server.user() as api:
            yield api


@pytest.fixture
async def scene(tmp_path: Path, model: FakeModel) -> AsyncIterator[Scene]:
    async with serving(tmp_path / "data", model) as server, server.user() as api:
        session = await api.create()
        await api.ask(session["id"], "remember the word heron")
        live = await api.follow(session["id"])
        await live.until("done")
        yield Scene(server, model, api, session["id"], live)


def assert_numbers_rise(seen: list[Event], later: list[Event]) -> None:
    numbers = [event["seq"] for event in later]
    assert numbers == sorted(set(numbers))
    assert min(numbers) > max(event["seq"] for event in seen)


async def test_a_server_killed_while_idle_goes_on_as_if_nothing_had_been(scene: Scene) -> None:
    seen = await scene.crash()
    async with scene.again() as api:
        assert (await api.session(scene.session_id))["state"] == "asleep"
        assert await api.events(scene.session_id, after=seen[-1]["seq"]) == []
        events = await api.ask(scene.session_id, "which word?")
        assert last(events)["outcome"] == "ok"
        assert_numbers_rise(seen, events)
        assert "heron" in str(scene.model.requests[-1].history)
        assert scene.model.received == 2


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_server_killed_in_a_turn_tells_what_was_cut_off_and_runs_nothing_twice(
    scene: Scene, moment: str
) -> None:
    reply, sign = MOMENTS[moment]
    scene.model.on("go", reply)
    stream = await scene.api.query(scene.session_id, "go on")
    await reach(scene.model, scene.session_id, stream, sign)
    await scene.live.until(sign, turn=2)
    await written_down(scene.server.data_dir, "go on")
    await scene.api.query(scene.session_id, "and then")
    await scene.live.until("status", state="queued", turn=3)
    seen = await scene.crash()
    async with scene.again() as api:
        back = await api.follow(scene.session_id, after=seen[-1]["seq"])
        await back.until("done", turn=3)
        assert_numbers_rise(seen, back.seen)
        cut_off = [event for event in back.seen if event["turn"] == 2]
        assert [event["type"] for event in cut_off] == ["error", "done"]
        assert cut_off[0]["code"] == "server_restarted"
        assert cut_off[1]["outcome"] == "interrupted"
        assert last([event for event in back.seen if event["turn"] == 3])["outcome"] == "ok"
        history = scene.model.requests[-1].history
        assert "heron" in str(history)
        assert str(history).count("go on") == 1
        assert scene.model.received == 3
        dones = [event for event in await api.events(scene.session_id) if event["type"] == "done"]
        assert [event["turn"] for event in dones] == [1, 2, 3]
    if sign == "tool":
        workspace = scene.server.data_dir / "users" / "admin" / "workspace"
        assert (workspace / "ran.txt").read_text() == "ran\n"


async def test_a_first_prompt_that_a_crash_cut_off_at_once_does_not_spoil_the_session(
    tmp_path: Path, model: FakeModel
) -> None:
    async with serving(tmp_path / "data", model) as server:
        async with server.user() as api:
            session = await api.create()
            await api.until_state(session["id"], "idle")
            processes.kill(processes.cli_of(session["id"]), signal.SIGSTOP)
            stream = await api.query(session["id"], "hello")
            await stream.until("status", state="running")
            await server.kill()
        await server.restart()
        async with server.user() as api:
            assert last(await api.events(session["id"]))["outcome"] == "interrupted"
            assert last(await api.ask(session["id"], "again"))["outcome"] == "ok"
            assert model.received == 1


async def test_a_server_killed_again_and_again_numbers_nothing_twice(scene: Scene) -> None:
    seen = await scene.crash()
    for word in ("one", "two"):
        async with scene.again() as api:
            events = await api.ask(scene.session_id, word)
            assert last(events)["result"] == f"You said: {word}"
            assert_numbers_rise(seen, events)
            seen = events
            await scene.crash()
    async with scene.again() as api:
        everything = await api.events(scene.session_id)
    numbers = [event["seq"] for event in everything]
    assert numbers == sorted(set(numbers))
    assert text_of([event for event in everything if event["turn"] == 3]) == "You said: two"


def stored(data_dir: Path) -> set[str]:
    """The types of the events that are rows by now."""
    with closing(sqlite3.connect(f"file:{data_dir}/orchestrator.db?mode=ro", uri=True)) as db:
        return {kind for (kind,) in db.execute("SELECT type FROM events")}


async def test_prompts_that_wake_a_session_together_run_once_each(
    tmp_path: Path, model: FakeModel
) -> None:
    words = [f"word {number}" for number in range(6)]
    async with hosting(tmp_path / "data", model) as app, user(app) as api:
        session = await api.create()
        await api.ask(session["id"], "hello")
    async with hosting(tmp_path / "data", model) as app, user(app) as api:
        turns = await asyncio.gather(*(api.ask(session["id"], word) for word in words))
        assert sorted(last(events)["result"] for events in turns) == [
            f"You said: {word}" for word in words
        ]
        assert model.received == 1 + len(words)


async def test_a_question_that_was_open_when_the_server_was_killed_is_closed(
    tmp_path: Path, model: FakeModel
) -> None:
    model.add(tool("Bash", {"command": "touch x.txt"}))
    async with serving(tmp_path / "data", model) as server, server.user() as api:
        session = await api.create(permission_mode="default")
        stream = await api.query(session["id"], "make a file")
        ask = await stream.until("ask")
        await processes.until(lambda: "ask" in stored(server.data_dir))
        await server.kill()
        await server.restart()
        async with server.user() as again:
            events = await again.events(session["id"])
            closed = [event for event in events if event["type"] == "answered"]
            assert [(event["ask_id"], event["by"]) for event in closed] == [
                (ask["ask_id"], "server")
            ]
            assert last(events)["outcome"] == "interrupted"


@pytest.mark.parametrize("frozen", [False, True], ids=["", "whose CLI is frozen"])
async def test_a_server_that_is_stopped_in_a_turn_ends_in_time_and_records_it(
    scene: Scene, frozen: bool
) -> None:
    scene.model.on("go", text("one two three four", hold_after=2))
    stream = await scene.api.query(scene.session_id, "go")
    await reach(scene.model, scene.session_id, stream, "text")
    await scene.api.query(scene.session_id, "and then")
    await scene.live.until("status", state="queued", turn=3)
    if frozen:
        processes.kill(processes.cli_of(scene.session_id), signal.SIGSTOP)
    async with asyncio.timeout(25):
        assert await scene.server.stop(signal.SIGINT if frozen else signal.SIGTERM) == 0
    assert not processes.living(scene.session_id)
    done = last(await stream.rest())
    assert done["outcome"] == "interrupted"
    (error,) = (event for event in stream.seen if event["type"] == "error")
    assert error["code"] == "server_stopped"
    async with scene.again() as api:
        back = await api.follow(scene.session_id, after=done["seq"])
        assert last([await back.until("done", turn=3)])["outcome"] == "ok"
        assert {event["turn"] for event in back.seen} == {3}
        assert "heron" in str(scene.model.requests[-1].history)
        assert scene.model.received == 3


async def ready(api: Api) -> bool:
    try:
        await api.request("GET", "/readyz")
    except Refused:
        return False
    return True


async def test_a_turn_that_ends_by_itself_while_the_server_stops_is_let_end(scene: Scene) -> None:
    scene.model.on("go", text("one two three four", hold_after=2))
    stream = await scene.api.query(scene.session_id, "go")
    await stream.until("text")
    stopping = asyncio.create_task(scene.server.stop())
    async with asyncio.timeout(10):
        while await ready(scene.api):
            await asyncio.sleep(0.02)
    with pytest.raises(Refused, match="503"):
        await scene.api.query(scene.session_id, "one more")
    scene.model.release()
    assert last(await stream.rest())["result"] == "one two three four"
    async with asyncio.timeout(10):
        assert await stopping == 0


async def test_a_turn_that_waited_for_a_place_when_the_server_stopped_runs_after_it(
    tmp_path: Path, model: FakeModel
) -> None:
    model.add(text("one two", hold_after=1))
    data = tmp_path / "data"
    async with hosting(data, model, Policy(running=1)) as app, user(app) as api:
        busy, patient = await api.create(), await api.create()
        working = await api.query(busy["id"], "take your time")
        await working.until("text")
        waiting = await api.query(patient["id"], "me too")
        await waiting.until("status", state="queued")
    async with hosting(data, model) as app, user(app) as api:
        assert last(await api.events(busy["id"]))["outcome"] == "interrupted"
        back = await api.follow(patient["id"])
        assert (await back.until("done"))["result"] == "You said: me too"
        assert model.received == 2


async def test_ctrl_c_ends_the_server_at_once_and_cleanly(scene: Scene) -> None:
    scene.model.on("go", hang())
    stream = await scene.api.query(scene.session_id, "go")
    await scene.model.wait_for_request(2)
    async with asyncio.timeout(5):
        assert await scene.server.stop(signal.SIGINT) == 0
    assert last(await stream.rest())["outcome"] == "interrupted"
    assert not processes.living(scene.session_id)
    assert "Traceback" not in scene.server.log.read_text()
