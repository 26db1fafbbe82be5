"""One app for all tests of a module: what they ask of it needs no turn."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from main import App
from tests.e2e.plain import Http, quiet


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    async with quiet(tmp_path_factory.mktemp("panel")) as app:
        yield app


@pytest_asyncio.fixture(loop_scope="module")
async def http(app: App) -> AsyncIterator[Http]:
    async with Http(app.url) as http:
        yield http


@pytest_asyncio.fixture(loop_scope="module")
async def session(http: Http) -> str:
    created = await http("POST", "/sessions", json={})
    session_id: str = created.json["id"]
    return session_id
