"""The command line, as people type it: users beside a running server and without one."""

import asyncio
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from playhouse.db_url import connect

import commands
from accounts import passwords
from tests.e2e.server import API_KEY, Server, serving
from tests.fakes.model import FakeModel
from tests.postgres import new_database

ROOT = Path(__file__).resolve().parent.parent
FIRST_ADMIN = r"First admin (\S+), password (\S+) \(shown only now\)\n"
KEPT = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Typed = Callable[..., Ended]


async def program(folder: Path, *words: str, stdin: str = "", **settings: str) -> Ended:
    """`python -m main …` as a process of its own, with warnings as errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "main", *words),
        cwd=folder,
        env={**KEPT, "PYTHONPATH": str(ROOT), "DATA_DIR": str(folder / "data"), **settings},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


@pytest.fixture
def typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Typed:
    """The same in this process, which is quicker."""
    for name in set(os.environ) - set(KEPT):
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", "data")
    monkeypatch.setattr(passwords, "COST", 4)

    def run(*words: str, **settings: str) -> Ended:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        code = commands.main(words)
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture
async def model() -> AsyncIterator[FakeModel]:
    async with FakeModel() as model:
        yield model


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    with new_database(postgres_url) as url:
        yield url


def port_of(server: Server) -> str:
    return server.url.rpartition(":")[2]


def one_line(ended: Ended) -> str:
    """A refusal: exit 1, one sentence and nothing else."""
    assert (ended.code, ended.out) == (1, ""), ended
    found = re.fullmatch(r"claude-orchestrator: ([^\n]+\.)\n", ended.err)
    assert found, ended
    return found[1]


# Without a server


def test_a_user_added_before_the_first_start_finds_an_admin_there(
    typed: Typed, database_url: str
) -> None:
    first = typed("user", "add", "alice", DATABASE_URL=database_url)
    assert first.code == 0
    told = re.fullmatch(FIRST_ADMIN + "Added alice.\n", first.out)
    assert told
    assert told[1] == "admin"
    assert typed("user", "add", "bob", "--admin") == Ended(0, "Added bob.\n", "")
    assert typed("user", "list") == Ended(0, "admin  admin\nalice  user\nbob  admin\n", "")
    with connect(database_url) as database:
        query = "SELECT password_hash FROM users WHERE username = 'admin'"
        [(stored,)] = database.execute_sql(query)
    assert passwords.matches(told[2], stored)


def test_a_user_who_is_there_or_can_be_none_is_refused(typed: Typed, database_url: str) -> None:
    typed("user", "add", "alice", DATABASE_URL=database_url)
    assert one_line(typed("user", "add", "alice")) == "There is a user 'alice' already."
    assert one_line(typed("user", "add", "admin")) == "There is a user 'admin' already."
    for slug in ("Alice", "a b", "", "\udcff"):
        assert one_line(typed("user", "add", slug)).startswith("A username has 1 to 32 of a-z")


def test_a_password_that_was_given_is_not_shown(typed: Typed) -> None:
    given = typed("user", "add", "alice", WEB_AUTH_PASSWORD="correct horse battery")
    assert given == Ended(0, "Added alice.\n", "")


def test_a_wrong_setting_is_told_in_one_line(typed: Typed, tmp_path: Path) -> None:
    assert one_line(typed("user", "list", PORT="http")).startswith("PORT must be")
    assert one_line(typed(PORT="http")).startswith("PORT must be")
    (tmp_path / "file").touch()
    broken = typed("user", "list", PORT="1", DATA_DIR=str(tmp_path / "file"))
    assert one_line(broken) == f"DATA_DIR {tmp_path}/file can't be used: File exists."


def test_a_database_that_does_not_answer_is_told_in_one_line(typed: Typed) -> None:
    url = "postgresql://app:hush-hush@127.0.0.1:1/name"
    for words in (("user", "add", "alice"), ("user", "list"), ()):
        ended = typed(*words, DATABASE_URL=url)
        assert (ended.code, ended.out) == (1, "")
        told = ended.err.splitlines()[-1]
        assert told.startswith("claude-orchestrator: The database does not answer as it should: ")
        assert told.endswith("Connection refused.")
        assert "Traceback" not in ended.err
        assert "hush" not in ended.err


@pytest.mark.parametrize("words", [["usr"], ["user"], ["user", "add"], ["--no-such"]])
def test_what_is_no_command_is_answered_with_its_usage(typed: Typed, words: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        typed(*words)
    assert raised.value.code == 2


# A password's hash


async def test_a_hash_that_was_made_is_the_first_admins_password(tmp_path: Path) -> None:
    made = await program(tmp_path, "hash-password", stdin="correct horse battery\r\n")
    assert (made.code, made.err) == (0, "")
    stored = made.out.strip()
    assert passwords.matches("correct horse battery", stored)
    added = await program(tmp_path, "user", "add", "alice", WEB_AUTH_PASSWORD_HASH=stored)
    assert added == Ended(0, "Added alice.\n", "")
    with connect(f"sqlite:///{tmp_path}/data/orchestrator.db") as database:
        query = "SELECT password_hash FROM users WHERE username = 'admin'"
        assert list(database.execute_sql(query)) == [(stored,)]


@pytest.mark.parametrize(
    ("password", "words"),
    [
        (b"short\n", "must have from 12 to 1024 characters"),
        (b"\n", "must have from 12 to 1024 characters"),
        (b"x" * 73, "may have at most 72 bytes, as bcrypt takes no more"),
        (b"x" * 12 + b"\xff", "must be text in UTF-8"),
    ],
)
def test_a_password_that_cannot_be_hashed_is_told(
    typed: Typed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, password: bytes, words: str
) -> None:
    (tmp_path / "typed").write_bytes(password)
    with (tmp_path / "typed").open(errors="surrogateescape") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert one_line(typed("hash-password")) == f"The password {words}."


# Beside a server


async def test_a_second_server_is_refused_until_the_first_is_killed(
    tmp_path: Path, model: FakeModel
) -> None:
    folder = tmp_path / "data"
    async with serving(folder, model, ORCHESTRATOR_API_KEY="") as server:
        second = one_line(await program(tmp_path))
        assert second == (
            f"Another server is using DATA_DIR {folder}; stop it, or choose another DATA_DIR."
        )
        names = ("", "api-key", "orchestrator.db", "orchestrator.db-wal")
        modes = [(folder / name).stat().st_mode & 0o777 for name in names]
        assert modes == [0o700, 0o600, 0o600, 0o600]
        await server.kill()
        await server.restart()
        async with server.user() as admin:
            assert (await admin.request("GET", "/readyz"))["ready"]


async def test_on_sqlite_users_are_added_through_the_running_server(
    tmp_path: Path, model: FakeModel, typed: Typed
) -> None:
    async with serving(tmp_path / "data", model) as server:
        given = {"PORT": port_of(server), "ORCHESTRATOR_API_KEY": API_KEY}
        added = await program(tmp_path, "user", "add", "alice", "--admin", **given)
        assert added == Ended(0, "Added alice.\n", "")

        async def say(*words: str, **settings: str) -> Ended:
            return await asyncio.to_thread(typed, *words, **{**given, **settings})

        assert one_line(await say("user", "add", "alice")) == "There is a user 'alice' already."
        assert one_line(await say("user", "add", "a b")).startswith("A username has 1 to 32")
        assert (await say("user", "list")).out == "admin  admin\nalice  admin\n"
        assert (await say("user", "list", HOST="0.0.0.0")).out.startswith("admin")
        async with server.user("alice") as alice:
            assert (await alice.request("GET", "/sessions"))["sessions"] == []
        wrong = one_line(await say("user", "list", ORCHESTRATOR_API_KEY="x" * 20))
        assert "refuses this API key; give the ORCHESTRATOR_API_KEY that it has." in wrong
        nowhere = one_line(await say("user", "list", PORT=str(free_port())))
        assert "give the HOST and PORT that it was started with." in nowhere


async def test_on_postgresql_users_are_added_beside_the_running_server(
    tmp_path: Path, model: FakeModel, typed: Typed, postgres_database: str
) -> None:
    async with serving(tmp_path / "data", model, DATABASE_URL=postgres_database) as server:
        added = await asyncio.to_thread(
            typed, "user", "add", "alice", DATABASE_URL=postgres_database
        )
        assert added == Ended(0, "Added alice.\n", "")
        async with server.user("alice") as alice:
            assert (await alice.request("GET", "/sessions"))["sessions"] == []


async def test_two_first_starts_at_once_on_postgresql_make_one_admin(
    tmp_path: Path, postgres_database: str
) -> None:
    starts = [tmp_path / "one", tmp_path / "two"]
    for folder in starts:
        folder.mkdir()
    words = ("user", "add")
    ended = await asyncio.gather(
        *(program(f, *words, f.name, DATABASE_URL=postgres_database) for f in starts)
    )
    assert [one.code for one in ended] == [0, 0], ended
    assert len(re.findall(FIRST_ADMIN, "".join(one.out for one in ended))) == 1
    with psycopg.connect(postgres_database) as database:
        rows = database.execute("SELECT username, role FROM users ORDER BY username").fetchall()
    assert rows == [("admin", "admin"), ("one", "user"), ("two", "user")]


async def test_a_start_that_fails_still_tells_the_password_that_it_made(tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        ended = await program(tmp_path, PORT=port, ISOLATION="none")
    assert ended.code == 1
    told = re.fullmatch(FIRST_ADMIN, ended.out)
    assert told
    told_why = ended.err.splitlines()[-1]
    assert told_why.startswith(f"claude-orchestrator: HOST 127.0.0.1 with PORT {port} can't be")
    with connect(f"sqlite:///{tmp_path}/data/orchestrator.db") as database:
        [(stored,)] = database.execute_sql("SELECT password_hash FROM users")
    assert passwords.matches(told[2], stored)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
