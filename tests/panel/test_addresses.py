"""Ids, queries and folders that lead nowhere are refused, and never reach beyond their place."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from main import App
from tests.e2e.plain import Http, head, refused, said

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNKNOWN = "0b0c7a2e-5c0e-4f0e-9a55-6d0a1c6f6a55"


@pytest_asyncio.fixture(loop_scope="module")
async def home(app: App, http: Http, tmp_path: Path) -> Path:
    """Admin's home, with things in it that are no place to work in."""
    await http("POST", "/sessions", json={})
    home = app.settings.data_dir / "users" / "admin"
    for name, target in {"out": tmp_path, "in": home / "inside", "loop": home / "loop"}.items():
        (home / name).unlink(missing_ok=True)
        (home / name).symlink_to(target)
    (home / "inside").mkdir(exist_ok=True)
    (home / "file").touch()
    return home


NO_IDS = [
    "x",
    "1",
    UNKNOWN[:-1],
    UNKNOWN + "0",
    UNKNOWN.replace("-", ""),
    "%00",
    UNKNOWN + "%00",
    "%ff",
    "%2e%2e",
    "..%2f..%2fetc%2fpasswd",
    "'%20OR%20'1'='1",
    "1%3B%20DROP%20TABLE%20sessions",
    "%0d%0aSet-Cookie:%20a=b",
    "%F0%9F%99%82",
    "x" * 4000,
]
OF_A_SESSION = [
    ("GET", "/sessions/{id}"),
    ("DELETE", "/sessions/{id}"),
    ("POST", "/sessions/{id}/query"),
    ("GET", "/sessions/{id}/events"),
    ("POST", "/sessions/{id}/interrupt"),
    ("DELETE", "/sessions/{id}/queue/" + UNKNOWN),
    ("POST", "/sessions/{id}/answers"),
]
BODY = {"prompt": "hello", "ask_id": "a", "decision": "allow"}


@pytest.mark.parametrize(("method", "path"), OF_A_SESSION)
@pytest.mark.parametrize("session_id", [UNKNOWN, *NO_IDS], ids=lambda given: given[:20])
async def test_a_session_that_is_not_there_is_not_found(
    app: App, method: str, path: str, session_id: str
) -> None:
    body = json.dumps(BODY).encode()
    address = path.replace("{id}", session_id)
    answer = await said(app.url, head(method, address, Content_Length=str(len(body))) + body)
    assert refused(answer, 404, "not_found") == "There is no such session."
    assert "Set-Cookie" not in answer.headers


async def test_an_id_in_capitals_is_the_same_id(http: Http, session: str) -> None:
    assert (await http("GET", f"/sessions/{session.upper()}")).json["id"] == session


@pytest.mark.parametrize("uuid", [UNKNOWN, "x", "%00", "..", "x" * 4000], ids=lambda u: u[:9])
async def test_a_prompt_that_does_not_wait_cannot_be_taken_back(
    http: Http, session: str, uuid: str
) -> None:
    answer = await http("DELETE", f"/sessions/{session}/queue/{uuid}")
    refused(answer, 404, "not_found")


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"ask_id": "unknown", "decision": "allow"}, 404, "not_found"),
        ({"ask_id": "unknown", "decision": "maybe"}, 422, "invalid"),
        ({"ask_id": "unknown", "decision": None}, 422, "invalid"),
        ({"ask_id": "unknown"}, 422, "invalid"),
        ({"ask_id": 7, "decision": "deny"}, 422, "invalid"),
        ({"decision": "deny"}, 422, "invalid"),
        ({"ask_id": "unknown", "decision": "deny", "message": 7}, 422, "invalid"),
    ],
    ids=str,
)
async def test_an_answer_to_no_question_is_refused(
    http: Http, session: str, fields: dict[str, Any], status: int, code: str
) -> None:
    refused(await http("POST", f"/sessions/{session}/answers", json=fields), status, code)


def cursor(data: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(data).encode()).decode()


NO_NUMBERS = ["-1", "x", "", "1.5", "1e3", "+1", "٣", "0x10", " 1", "9" * 25, "0" * 5000, "%00"]
NO_CURSORS = [
    "x",
    "%00",
    "é",
    cursor([]),
    cursor({}),
    cursor([1]),
    cursor([1, 2]),
    cursor([1, "x"]),
    cursor([-1, UNKNOWN]),
    cursor([2**63, UNKNOWN]),
    cursor([2**70, UNKNOWN]),
    cursor([1.5, UNKNOWN]),
    cursor(["1", UNKNOWN]),
    cursor([1, UNKNOWN, 1]),
    cursor([1, "a\0b"]),
]
QUERIES = [("/sessions", "limit", value) for value in [*NO_NUMBERS, "0", "201"]]
QUERIES += [("/sessions", "cursor", value) for value in NO_CURSORS]
QUERIES += [("/sessions/{id}/events", "after", value) for value in NO_NUMBERS]
QUERIES += [("/sessions/{id}/events", "follow", value) for value in [*NO_NUMBERS, "2", "yes"]]


@pytest.mark.parametrize(("path", "name", "value"), QUERIES, ids=lambda given: given[:20])
async def test_a_wrong_value_in_the_address_is_told(
    http: Http, session: str, path: str, name: str, value: str
) -> None:
    answer = await http("GET", f"{path.replace('{id}', session)}?{name}={value}")
    assert name in refused(answer, 422, "invalid")


# Folders.


@pytest.mark.parametrize(
    "cwd",
    [
        "/",
        "/etc",
        "..",
        "../..",
        "../../other",
        "../out",
        "../loop",
        "../file",
        "../file/below",
        "nothing-there",
        "x" * 300,
        "/".join(["deep"] * 800),
        "~",
        "\x01",
    ],
    ids=lambda cwd: cwd[:20],
)
async def test_a_session_works_only_in_a_folder_of_its_users_home(
    http: Http, home: Path, cwd: str
) -> None:
    answer = await http("POST", "/sessions", json={"cwd": cwd})
    if cwd == "..":
        assert answer.json["cwd"] == str(home)
    else:
        assert refused(answer, 422, "invalid").startswith("cwd must ")


async def test_folders_of_the_home_are_taken_by_any_name(http: Http, home: Path) -> None:
    for cwd in ("../inside", str(home / "inside"), "../in", "../inside/../inside/."):
        answer = await http("POST", "/sessions", json={"cwd": cwd})
        assert (answer.status, answer.json["cwd"]) == (201, str(home / "inside")), answer
