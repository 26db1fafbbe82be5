"""Is it alive, is it ready, how is it doing: asked of the server in good and in bad times."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from config import VERSION
from main import App
from tests import postgres
from tests.e2e.api import Api, last
from tests.e2e.inside import put_to_sleep
from tests.e2e.plain import Http, quiet, refused
from tests.e2e.server import Server
from tests.fakes.model import FakeModel, status, text

Samples = dict[str, float]


@asynccontextmanager
async def stuck_database(app: App) -> AsyncIterator[None]:
    """Its thread hangs in something that does not end."""
    let_go, hangs = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang() -> None:
        loop.call_soon_threadsafe(hangs.set)
        let_go.wait()

    hanging = asyncio.create_task(app.db.run(hang))
    await hangs.wait()
    try:
        yield
    finally:
        let_go.set()
        await hanging


async def samples(app: App) -> Samples:
    async with Http(app.url) as http:
        answer = await http("GET", "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    return {
        sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


async def test_health_tells_versions_isolation_and_what_was_looked_at(app: App) -> None:
    async with Http(app.url, {}) as http:
        answer = await http("GET", "/healthz")
        ready = await http("GET", "/readyz")
    assert (ready.status, ready.json) == (200, {"ready": True})
    health = answer.json
    assert answer.status == 200
    assert health["ok"]
    assert health["version"] == VERSION
    assert health["claude_present"]
    assert health["claude_version"].count(".") == 2
    assert health["isolation"] in {"bwrap", "none"}
    assert {"database", "tick", "claude", "disk"} <= health["checks"].keys()
    assert all(check["ok"] for check in health["checks"].values())


async def test_a_database_that_hangs_is_told_and_so_is_its_return(tmp_path: Path) -> None:
    async with quiet(tmp_path) as app, Http(app.url, {}) as http:
        async with stuck_database(app):
            answer, ready = await asyncio.gather(http("GET", "/healthz"), http("GET", "/readyz"))
        assert (answer.status, ready.status) == (503, 503)
        assert not answer.json["ok"]
        wrong = [name for name, check in answer.json["checks"].items() if not check["ok"]]
        assert wrong == ["database"]
        assert answer.json["checks"]["database"]["detail"].endswith(".")
        assert (await http("GET", "/healthz")).status == 200


async def test_a_database_that_is_gone_is_told_without_its_password_or_a_trace(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as database:
        url = database.enter_context(postgres.server())
        async with quiet(tmp_path, DATABASE_URL=url) as app, Http(app.url) as http:
            assert (await http("GET", "/healthz")).status == 200
            database.close()
            async with asyncio.timeout(10):  # the last answer is good for a second
                while (answer := await http("GET", "/healthz")).status == 200:
                    await asyncio.sleep(0.05)
            assert answer.status == 503
            check = answer.json["checks"]["database"]
            assert not check["ok"]
            assert str(urlsplit(url).password) not in check["detail"]
            refused(await http("GET", "/sessions"), 503, "unavailable")
    assert "Traceback" not in caplog.text


async def test_a_claude_that_is_gone_is_told(tmp_path: Path) -> None:
    async with quiet(tmp_path) as app, Http(app.url, {}) as http:
        (tmp_path / "claude").unlink()
        answer = await http("GET", "/healthz")
    assert answer.status == 503
    assert not answer.json["claude_present"]
    assert not answer.json["checks"]["claude"]["ok"]
    assert answer.json["checks"]["database"]["ok"]


async def test_a_server_that_is_stopping_is_not_ready_but_ends_its_turns(
    server: Server, admin: Api, model: FakeModel
) -> None:
    model.add(text("one two", chunks=["one", " two"], hold_after=1))
    session = await admin.create()
    stream = await admin.query(session["id"], "count")
    await stream.until("text")
    async with Http(server.url, {}) as http:
        stopping = asyncio.create_task(server.stop())
        async with asyncio.timeout(20):
            while (answer := await http("GET", "/readyz")).status == 200:
                await asyncio.sleep(0.01)
        assert (answer.status, answer.json) == (503, {"ready": False})
        assert (await http("GET", "/healthz")).status == 200
    model.release()
    assert last(await stream.rest())["result"] == "one two"
    assert await stopping == 0


async def test_metrics_follow_a_turn(app: App, api: Api, model: FakeModel) -> None:
    before = await samples(app)
    assert before["orchestrator_claude_processes"] == 0
    assert before["orchestrator_turn_first_event_seconds_count"] == 0
    model.add(text("one two", chunks=["one", " two"], hold_after=1), text("three"))
    session = await api.create()
    stream = await api.query(session["id"], "count")
    await stream.until("text")
    behind = await api.query(session["id"], "and then")
    during = await samples(app)
    assert during["orchestrator_claude_processes"] == 1
    assert during["orchestrator_turns_running"] == 1
    assert during["orchestrator_turns_waiting"] == 1
    assert during["orchestrator_claude_starts_total"] == 1
    model.release()
    await stream.rest()
    await behind.rest()
    after = await samples(app)
    assert after["orchestrator_turns_running"] == 0
    assert after["orchestrator_turns_waiting"] == 0
    assert after["orchestrator_turns_total{ok}"] == 2
    assert after["orchestrator_turn_first_event_seconds_count"] == 2
    assert 0 < after["orchestrator_turn_first_event_seconds_sum"] < 60
    assert after["orchestrator_claude_starts_total"] == 1
    assert after["orchestrator_event_loop_lag_seconds"] >= 0


async def test_metrics_count_evictions_and_errors_by_their_kind(
    app: App, api: Api, model: FakeModel
) -> None:
    model.add(status(403, times=10))
    session = await api.create()
    failed = await api.ask(session["id"], "hello")
    assert last(failed)["outcome"] == "error"
    await put_to_sleep(app, api, session["id"])
    async with asyncio.timeout(20):
        while (after := await samples(app))["orchestrator_claude_processes"]:
            await asyncio.sleep(0.02)
    assert after["orchestrator_claude_errors_total{login}"] == 1
    assert after["orchestrator_turns_total{error}"] == 1
    assert after["orchestrator_claude_evictions_total{idle}"] == 1
