"""A PostgreSQL of the tests' own: started when first asked for, gone when they end."""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

START_SECONDS = 30
OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}


@contextmanager
def server() -> Iterator[str]:
    """Run a server whose one user is `app`, and give the URL of its first database."""
    programs = find_programs()
    # Not in the tests' own folders: PostgreSQL runs as another user, who may not enter those.
    home = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
    password = secrets.token_urlsafe(16)
    try:
        _initialise(programs, home, password)
        port = _free_port()
        process = _start(programs, home, port)
        url = f"postgresql://app:{password}@127.0.0.1:{port}/postgres"
        try:
            _wait_until_ready(process, url, home)
            yield url
        finally:
            process.send_signal(signal.SIGINT)  # does not wait for connections left open
            process.wait(START_SECONDS)
    finally:
        shutil.rmtree(home)


@contextmanager
def new_database(server_url: str) -> Iterator[str]:
    name = f"test_{secrets.token_hex(8)}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield server_url.removesuffix("postgres") + name
        finally:
            drop = sql.SQL("DROP DATABASE {} WITH (FORCE)")
            connection.execute(drop.format(sql.Identifier(name)))


def find_programs() -> Path:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    on_path = shutil.which("initdb")
    if on_path:
        folders.append(Path(on_path).resolve().parent)
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    pytest.skip("PostgreSQL's server programs are not installed")


def _initialise(programs: Path, home: Path, password: str) -> None:
    secret = home / "password"
    secret.write_text(password)
    if os.geteuid() == 0:
        for path in (home, secret):
            os.chown(path, _owner().pw_uid, _owner().pw_gid)
    arguments = ["-D", str(home / "data"), "-U", "app", "--encoding=UTF8", "--locale=C"]
    subprocess.run(
        _command(programs / "initdb", *arguments, "-A", "scram-sha-256", f"--pwfile={secret}"),
        check=True,
        cwd=home,
        stdout=subprocess.DEVNULL,
    )


def _start(programs: Path, home: Path, port: int) -> subprocess.Popen[bytes]:
    options = OPTIONS | {"port": str(port), "unix_socket_directories": str(home)}
    settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    with (home / "log").open("wb") as log:
        return subprocess.Popen(
            _command(programs / "postgres", "-D", str(home / "data"), *settings),
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for pytest, which ends the server itself
        )


def _command(program: Path, *arguments: str) -> list[str]:
    """Run a program as a user whom PostgreSQL accepts, and let it not outlive a killed pytest."""
    as_owner = []
    if os.geteuid() == 0:
        as_owner = [f"--reuid={_owner().pw_uid}", f"--regid={_owner().pw_gid}", "--clear-groups"]
    return ["setpriv", *as_owner, "--pdeathsig=QUIT", "--", str(program), *arguments]


def _owner() -> pwd.struct_passwd:
    users = {entry.pw_name: entry for entry in pwd.getpwall()}
    return users.get("postgres", users["nobody"])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, home: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            psycopg.connect(url, connect_timeout=1).close()
        except psycopg.OperationalError:
            time.sleep(0.02)
        else:
            return
    pytest.fail(f"PostgreSQL did not start: {(home / 'log').read_text()}")
