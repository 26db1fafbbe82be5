"""The same application in the test's own process, for tests that move its clock by `step`."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import config
from main import App
from sessions.admission import Policy
from tests.e2e.api import Api
from tests.e2e.server import API_KEY
from tests.fakes.model import FakeModel


@asynccontextmanager
async def hosting(
    data_dir: Path, model: FakeModel, policy: Policy | None = None, **settings: str
) -> AsyncIterator[App]:
    values = {
        "DATA_DIR": str(data_dir),
        "PORT": "0",
        "ORCHESTRATOR_API_KEY": API_KEY,
        "ANTHROPIC_API_KEY": "a-fake-key",
        "ANTHROPIC_BASE_URL": model.url,
        "WEB_AUTH_PASSWORD": "correct horse battery",
        **settings,
    }
    app = App(config.read(values), policy)
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


def user(app: App, name: str = "admin") -> Api:
    return Api(f"http://127.0.0.1:{app.port}", API_KEY, name)


async def later(app: App, seconds: float) -> None:
    """Let the clock of the server's own doings say that so much time has passed."""
    await app.step(time.monotonic() + seconds)


async def put_to_sleep(app: App, api: Api, session_id: str) -> None:
    """Its process is ended, as that of a session nobody has used for long."""
    await later(app, app.policy.idle_seconds + 1)
    await api.until_state(session_id, "asleep")
