"""What end-to-end tests stand on: the real app, the real CLI, a fake model."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from main import App
from tests.e2e.api import Api
from tests.e2e.inside import hosting, user
from tests.e2e.server import Server, serving
from tests.fakes.model import FakeModel


@pytest.fixture
async def model() -> AsyncIterator[FakeModel]:
    async with FakeModel() as model:
        yield model


@pytest.fixture
async def server(tmp_path: Path, model: FakeModel) -> AsyncIterator[Server]:
    """The server as a process of its own."""
    async with serving(tmp_path / "data", model) as server:
        yield server


@pytest.fixture
async def admin(server: Server) -> AsyncIterator[Api]:
    async with server.user() as api:
        yield api


@pytest.fixture
async def app(tmp_path: Path, model: FakeModel) -> AsyncIterator[App]:
    """The same application in this process, for tests that move its clock by `step`."""
    async with hosting(tmp_path / "data", model) as app:
        yield app


@pytest.fixture
async def api(app: App) -> AsyncIterator[Api]:
    async with user(app) as api:
        yield api
