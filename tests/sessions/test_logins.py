"""Which credential an agent gets, whatever its user has put where a login would be."""

import os
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from sessions import logins
from sessions.logins import LARGEST

DEFAULT = {"ANTHROPIC_API_KEY": "the-servers-key"}
LATER = (time.time() + 3600) * 1000


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home/.claude").mkdir(parents=True)
    return tmp_path / "home"


@pytest.fixture
def service(tmp_path: Path) -> Path:
    return tmp_path / "service"


def file_of(home: Path) -> Path:
    return home / ".claude/.credentials.json"


def log_in(home: Path, **fields: Any) -> Path:
    login = {"accessToken": "access", "refreshToken": "refresh", "expiresAt": LATER, **fields}
    file_of(home).parent.mkdir(parents=True, exist_ok=True)
    file_of(home).write_bytes(orjson.dumps({"claudeAiOauth": login}))
    return home


# Precedence


def test_a_users_own_login_goes_before_everything(home: Path, service: Path) -> None:
    log_in(home)
    assert logins.credential(home, DEFAULT, log_in(service)) == {}


def test_without_it_the_servers_default_is_given(home: Path, service: Path) -> None:
    log_in(service)
    given = logins.credential(home, DEFAULT, service)
    assert given == DEFAULT
    assert given is not DEFAULT


def test_without_both_the_services_login_serves(home: Path, service: Path) -> None:
    log_in(service, accessToken="of-the-service")
    expected = {"CLAUDE_CODE_OAUTH_TOKEN": "of-the-service"}
    assert logins.credential(home, {}, service) == expected


def test_without_any_there_is_none(home: Path, service: Path) -> None:
    assert logins.credential(home, {}, service) == {}


@pytest.mark.parametrize("expires_at", [(time.time() - 1) * 1000, 0, None, "soon", [], "1e400"])
def test_a_services_login_that_ended_does_not_serve(
    home: Path, service: Path, expires_at: object
) -> None:
    log_in(service, expiresAt=expires_at)
    assert logins.credential(home, {}, service) == {}
    assert logins.service_token(service) == ""


@pytest.mark.parametrize("fields", [{"accessToken": ""}, {"refreshToken": ""}])
def test_half_a_login_of_a_users_own_counts(home: Path, fields: dict[str, str]) -> None:
    """The CLI renews with one, and works with the other."""
    assert logins.has_login(log_in(home, **fields))


def test_an_expired_login_of_a_users_own_counts(home: Path) -> None:
    assert logins.has_login(log_in(home, expiresAt=1))


def test_a_login_that_was_blanked_does_not_count(home: Path, service: Path) -> None:
    log_in(home, accessToken="", refreshToken="")
    assert not logins.has_login(home)
    assert logins.credential(home, DEFAULT, service) == DEFAULT


# What may be in its place


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"null", b"[]", b"7", b'"text"', b"{}", b"\xff\xfe\x00", b"[" * 60_000),
        *(b'{"claudeAiOauth":null}', b'{"claudeAiOauth":[1]}', b'{"claudeAiOauth":{}}'),
    ],
)
def test_a_file_that_is_no_login_is_none(home: Path, content: bytes) -> None:
    file_of(home).write_bytes(content)
    assert not logins.has_login(home)
    assert logins.service_token(home) == ""


def test_a_huge_file_is_not_read_to_its_end(home: Path) -> None:
    log_in(home, accessToken="x" * LARGEST)
    assert not logins.has_login(home)
    with file_of(home).open("wb") as file:
        file.truncate(10 * 1024**4)
    assert not logins.has_login(home)


def test_the_largest_that_is_read_is_read(home: Path) -> None:
    log_in(home)
    size = file_of(home).stat().st_size
    log_in(home, scopes="x" * (LARGEST - size - len(',"scopes":""')))
    assert file_of(home).stat().st_size == LARGEST
    assert logins.has_login(home)


@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "nothing", "folder is a file"])
def test_whatever_else_is_there_holds_up_nobody(home: Path, tmp_path: Path, kind: str) -> None:
    file, elsewhere = file_of(home), file_of(log_in(tmp_path / "elsewhere"))
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "link":
        file.symlink_to(elsewhere)
    elif kind == "folder":
        file.mkdir()
    elif kind == "folder is a file":
        file.parent.rmdir()
        file.parent.touch()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        assert not logins.has_login(home)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_device_is_not_read(home: Path) -> None:
    file_of(home).parent.rmdir()
    file_of(home).parent.symlink_to("/dev")
    assert not logins.has_login(home)
