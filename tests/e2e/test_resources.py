"""What must not be left behind, run full, or be held up: processes, descriptors, disk, readers."""

import asyncio
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
import pytest

from main import App
from tests.e2e import processes
from tests.e2e.api import Api, Event, Refused, last, text_of
from tests.e2e.inside import put_to_sleep
from tests.e2e.server import Server, serving
from tests.fakes.model import FakeModel, big, text, tool

# One leaves the shell's session, the other its parents too.
DAEMONS = (
    "setsid sleep 1000 >/dev/null 2>&1 & "
    "setsid sh -c '(setsid sleep 1001 >/dev/null 2>&1 &)' >/dev/null 2>&1; echo left"
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")


async def with_daemons(api: Api, model: FakeModel) -> str:
    """A session whose tool left two processes behind."""
    model.add(tool("Bash", {"command": DAEMONS}), text("Done."))
    session_id = str((await api.create())["id"])
    assert last(await api.ask(session_id, "serve"))["outcome"] == "ok"
    await processes.until(lambda: processes.count(session_id, "sleep") == 2)
    return session_id


async def all_gone(session_id: str) -> None:
    await processes.until(lambda: not processes.living(session_id), seconds=2)


# Processes


async def test_nothing_survives_the_end_of_its_session(api: Api, model: FakeModel) -> None:
    session_id = await with_daemons(api, model)
    await api.delete(session_id)
    await all_gone(session_id)


async def test_nothing_survives_an_eviction(app: App, api: Api, model: FakeModel) -> None:
    session_id = await with_daemons(api, model)
    await put_to_sleep(app, api, session_id)
    await all_gone(session_id)


async def test_nothing_survives_a_cli_that_was_killed(api: Api, model: FakeModel) -> None:
    session_id = await with_daemons(api, model)
    processes.kill(processes.cli_of(session_id))
    await all_gone(session_id)


@pytest.mark.parametrize("end", ["kill", "stop"])
async def test_nothing_survives_the_server(
    server: Server, admin: Api, model: FakeModel, end: str
) -> None:
    session_id = await with_daemons(admin, model)
    await (server.kill() if end == "kill" else server.stop())
    await all_gone(session_id)


async def test_a_session_deleted_in_mid_turn_ends_its_turns_and_leaves_nothing(
    api: Api, model: FakeModel, tmp_path: Path
) -> None:
    model.on("first", tool("Bash", {"command": "sleep 1000"}))
    session = await api.create()
    first = await api.query(session["id"], "first")
    await first.until("tool")
    await processes.until(lambda: processes.runs(session["id"], "sleep"))
    second = await api.query(session["id"], "second")
    reader = await api.follow(session["id"])
    await api.delete(session["id"])
    await all_gone(session["id"])
    assert last(await first.rest())["outcome"] == "interrupted"
    assert last(await second.rest())["outcome"] == "cancelled"
    await reader.rest()
    with pytest.raises(Refused, match="404"):
        await api.session(session["id"])
    with pytest.raises(Refused, match="404"):
        await api.query(session["id"], "third")
    data = tmp_path / "data"
    assert not list((data / "tmp").iterdir())
    assert not list((data / "users" / "admin" / ".claude" / "projects").rglob("*.jsonl"))
    assert model.received == 1


async def test_a_prompt_that_meets_the_deletion_of_its_session_is_refused_or_ended(
    api: Api,
) -> None:
    for _ in range(5):
        session_id = (await api.create())["id"]
        asking = asyncio.create_task(api.ask(session_id, "hello"))
        async with asyncio.timeout(20):
            await asyncio.gather(asking, api.delete(session_id), return_exceptions=True)
        if refused := asking.exception():
            assert isinstance(refused, Refused)
            assert refused.status == 404
        else:
            assert last(asking.result())["outcome"] in ("cancelled", "interrupted")
        await all_gone(session_id)


@pytest.mark.timeout(300)
async def test_two_hundred_sessions_leave_nothing_behind(server: Server, admin: Api) -> None:
    places = asyncio.Semaphore(6)

    async def life() -> str:
        async with places:
            session_id = str((await admin.create())["id"])
            assert last(await admin.ask(session_id, "hello"))["outcome"] == "ok"
            await admin.delete(session_id)
            return session_id

    known = await asyncio.gather(*(life() for _ in range(12)))
    before = processes.descriptors(server.pid)
    known += await asyncio.gather(*(life() for _ in range(188)))
    assert not [session_id for session_id in known[::20] if processes.living(session_id)]
    await processes.until(lambda: not processes.children(server.pid))
    await processes.until(lambda: processes.descriptors(server.pid) <= before)
    assert not list((server.data_dir / "tmp").iterdir())
    groups = {name.partition(".")[0] for _, names, _ in os.walk("/sys/fs/cgroup") for name in names}
    assert not groups & set(known)
    assert (await admin.request("GET", "/sessions"))["sessions"] == []


# Readers


async def test_a_client_that_hangs_up_does_not_stop_the_turn(api: Api, model: FakeModel) -> None:
    model.add(text("one two three four", hold_after=2))
    session = await api.create()
    stream = await api.query(session["id"], "count")
    await stream.until("text")
    stream.hang_up()
    model.release()
    back = await api.follow(session["id"])
    assert (await back.until("done"))["result"] == "one two three four"
    assert text_of(back.seen) == "one two three four"


@asynccontextmanager
async def stalled_reader(server: Server, session_id: str) -> AsyncIterator[aiohttp.StreamReader]:
    """A follower that takes little and then nothing; what it is sent piles up at the server."""
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connector = aiohttp.TCPConnector(socket_factory=lambda _: small)
    headers = {"X-API-Key": server.key, "X-User": "admin"}
    path = f"{server.url}/sessions/{session_id}/events?follow=1"
    async with (
        aiohttp.ClientSession(headers=headers, read_bufsize=1024, connector=connector) as http,
        http.get(path) as response,
    ):
        yield response.content


async def what_was_sent(stalled: aiohttp.StreamReader) -> list[Event]:
    """Whole lines, up to where the server cut it off."""
    received = b""
    try:
        async for chunk in stalled.iter_any():
            received += chunk
    except aiohttp.ClientError:
        return [json.loads(line) for line in received.split(b"\n")[:-1]]
    raise AssertionError("the reader was not cut off")


async def test_a_reader_that_is_too_slow_is_dropped_and_nobody_else_is(
    server: Server, admin: Api, model: FakeModel
) -> None:
    model.add(big(16 * 1024 * 1024))
    session = await admin.create()
    async with stalled_reader(server, session["id"]) as stalled:
        events = await admin.ask(session["id"], "at length")
        answer = last(events)["result"]
        assert len(answer) == 16 * 1024 * 1024
        assert text_of(events) == answer
        seen = await what_was_sent(stalled)
    assert "done" not in [event["type"] for event in seen]
    rest = await admin.events(session["id"], after=seen[-1]["seq"])
    assert text_of([*seen, *rest]) == answer
    assert last(rest)["outcome"] == "ok"


# A full disk


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
async def cramped(tmp_path: Path, model: FakeModel) -> AsyncIterator[Server]:
    """A server whose DATA_DIR is a disk of its own, a small one."""
    with small_disk(tmp_path / "disk") as disk:
        async with serving(disk / "data", model) as server:
            yield server


def fill(server: Server) -> Path:
    ballast = server.data_dir.parent / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 65536)
        except OSError:
            return ballast


@needs_root
async def test_a_full_disk_refuses_prompts_in_words_until_there_is_space_again(
    cramped: Server, model: FakeModel
) -> None:
    async with cramped.user() as api:
        session = await api.create()
        await api.ask(session["id"], "remember the word heron")
        ballast = fill(cramped)
        with pytest.raises(Refused) as refused:
            await api.ask(session["id"], "which word?")
        assert (refused.value.status, refused.value.code) == (503, "unavailable")
        assert "full" in refused.value.message
        with pytest.raises(Refused, match="503"):
            await api.request("GET", "/healthz")
        assert (await api.session(session["id"]))["title"] == "remember the word heron"
        ballast.unlink()
        assert last(await api.ask(session["id"], "which word?"))["outcome"] == "ok"
        assert "heron" in str(model.requests[-1].history)
        assert model.received == 2


@needs_root
async def test_a_turn_during_which_the_disk_ran_full_ends_when_there_is_space_again(
    cramped: Server, model: FakeModel
) -> None:
    model.on("count", text("one two three four", hold_after=2))
    async with cramped.user() as api:
        session = await api.create()
        stream = await api.query(session["id"], "count")
        await stream.until("text")
        ballast = fill(cramped)
        model.release()
        error = await stream.until("error")
        assert error["code"] == "storage"
        assert text_of(stream.seen) == "one two three four"
        with pytest.raises(Refused, match="503"):
            await api.query(session["id"], "and then?")
        ballast.unlink()
        assert last(await stream.rest())["result"] == "one two three four"
        events = await api.events(session["id"])
        assert text_of(events) == "one two three four"
        assert last(events)["outcome"] == "ok"
        assert last(await api.ask(session["id"], "go on"))["outcome"] == "ok"


@needs_root
async def test_a_server_stopped_while_its_disk_is_full_ends_in_time_and_owes_nothing(
    cramped: Server, model: FakeModel
) -> None:
    model.on("count", text("one two three four", hold_after=2))
    async with cramped.user() as api:
        session = await api.create()
        stream = await api.query(session["id"], "count")
        await stream.until("text")
        ballast = fill(cramped)
        async with asyncio.timeout(25):
            assert await cramped.stop(signal.SIGINT) == 0
        await all_gone(session["id"])
        ballast.unlink()
    await cramped.restart()
    async with cramped.user() as api:
        assert last(await api.events(session["id"]))["outcome"] == "interrupted"
        assert last(await api.ask(session["id"], "go on"))["outcome"] == "ok"


async def test_folders_too_deep_for_python_go_with_their_session(
    api: Api, app: App, model: FakeModel
) -> None:
    deep = "cd /tmp; for i in $(seq 1500); do mkdir d && cd d; done; ln -s /etc here; echo made"
    session = await api.create()
    model.add(tool("Bash", {"command": deep}), text("Done."))
    events = await api.ask(session["id"], "dig")
    assert "made" in str([event["output"] for event in events if event["type"] == "tool_result"])
    await api.delete(session["id"])
    assert app.workspaces.kept_tmp() == set()
    assert Path("/etc/passwd").exists()


async def test_a_session_whose_folder_is_gone_can_be_deleted(
    api: Api, app: App, model: FakeModel
) -> None:
    workspace = app.settings.data_dir / "users" / "admin" / "workspace"
    await api.create()  # makes the workspace
    (workspace / "gone").mkdir()
    os.chown(workspace / "gone", workspace.stat().st_uid, workspace.stat().st_gid)
    session = await api.create(cwd="gone")
    await api.ask(session["id"], "hello")
    (workspace / "gone").rmdir()
    await api.delete(session["id"])
    listed = (await api.request("GET", "/sessions"))["sessions"]
    assert session["id"] not in [one["id"] for one in listed]
