"""What the server's log never holds: keys, credentials, query strings, prompts."""

import json
from pathlib import Path

import pytest

from tests.e2e.api import Api, last
from tests.e2e.plain import Http, head, refused, said
from tests.e2e.server import Server, serving
from tests.fakes.model import FakeModel, status, text, tool

CREDENTIAL = "a-credential-of-the-server"
SCRAPER = "a-token-for-the-scraper"
PASSWORD = "a password of the first admin"
SAID = {
    "prompt": "prompt-quokka",
    "answer": "answer-wombat",
    "command": "command-numbat",
    "system prompt": "system-bilby",
    "query": "query-dingo",
    "header": "header-emu",
}


async def a_busy_day(server: Server) -> None:
    """Good turns and bad ones, and requests of which some are none at all."""
    key = server.key
    async with server.user() as api, Http(server.url, {"X-User": "admin"}) as by_address:
        session = await api.create(system_prompt=SAID["system prompt"])
        assert last(await api.ask(session["id"], SAID["prompt"]))["outcome"] == "ok"
        assert last(await api.ask(session["id"], SAID["prompt"] + " fails"))["outcome"] == "error"
        path = f"/sessions/{session['id']}/events?api_key={key}&{SAID['query']}=1"
        assert (await by_address("GET", path)).status == 200
        refused(await by_address("GET", f"/nowhere?api_key=x{key}"), 401, "unauthorized")
        refused(await by_address("GET", f"/nowhere%0a?api_key={key}"), 404, "not_found")
        await bad_requests(server, api)
        await api.delete(session["id"])


async def bad_requests(server: Server, api: Api) -> None:
    key, query, secret = server.key, SAID["query"], SAID["header"]
    long = head("GET", f"/sessions?api_key={key}&{query}={'a' * 9000}")
    bad = head("GET", f"/sessions?api_key={key}", X_Bad=f"{secret}\x01")
    for request in (long, bad, head("GET", "/", X_Long=secret + "a" * 9000)):
        refused(await said(server.url, request), 400, "bad_request")
    async with Http(server.url, {"Authorization": f"Bearer {SCRAPER}"}) as scraper:
        assert (await scraper("GET", "/metrics")).status == 200
    fields = {"username": "carol", "password": SAID["prompt"] * 3}
    await api.request("POST", "/auth/users", json=fields)


@pytest.mark.parametrize("kind", ["text", "json"])
async def test_the_log_tells_what_was_done_and_nothing_of_what_was_said(
    tmp_path: Path, model: FakeModel, kind: str
) -> None:
    model.on(f"{SAID['prompt']} fails", status(403, times=10))
    model.on(SAID["prompt"], tool("Bash", {"command": f"echo {SAID['command']}"}))
    model.script.default = text(SAID["answer"])
    settings = {
        "LOG_LEVEL": "debug",
        "LOG_FORMAT": kind,
        "ANTHROPIC_API_KEY": CREDENTIAL,
        "METRICS_TOKEN": SCRAPER,
        "WEB_AUTH_PASSWORD": PASSWORD,
    }
    async with serving(tmp_path / "data", model, **settings) as server:
        await a_busy_day(server)
    log = server.log.read_text()
    assert "GET /nowhere%0A 404" in log
    assert "POST /sessions 201" in log
    assert "Traceback" not in log
    for secret in (server.key, CREDENTIAL, SCRAPER, PASSWORD, "api_key", *SAID.values()):
        assert secret not in log
    if kind == "json":
        lines = [json.loads(line) for line in log.splitlines()]
        assert all({"at", "level", "logger", "message"} <= line.keys() for line in lines)
