"""What can be asked for on the command line: serve, users, and a password's hash."""

import argparse
import asyncio
import getpass
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp

import config
import datadir
from accounts import passwords
from accounts.passwords import Hasher
from accounts.users import Users
from config import VERSION, Settings
from db import Database
from errors import AppError, ConfigError
from logs import set_up_logging
from main import App, shown_host

DRAIN_SECONDS = 10.0
PATIENCE = aiohttp.ClientTimeout(total=30)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except (AppError, ConfigError, ValueError) as error:
        print(f"claude-orchestrator: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m main", description="claude-orchestrator")
    parser.set_defaults(run=_serve)
    verbs = parser.add_subparsers(title="commands", description="Without one, the server runs.")
    users = verbs.add_parser("user", help="add or list users").add_subparsers(required=True)
    add = users.add_parser("add", help="add a user, who may work at once")
    add.add_argument("slug", help="1 to 32 of a-z, 0-9, _ and -; it never changes")
    add.add_argument("--admin", action="store_true", help="may manage the server")
    add.set_defaults(run=_add_user)
    users.add_parser("list", help="list users").set_defaults(run=_list_users)
    hashing = verbs.add_parser("hash-password", help="a value for WEB_AUTH_PASSWORD_HASH")
    hashing.set_defaults(run=_hash_password)
    return parser


def _serve(arguments: argparse.Namespace) -> int:
    settings = config.from_environment()
    set_up_logging(settings.log_format, settings.log_level)
    asyncio.run(run(settings, welcome))
    return 0


async def run(settings: Settings, greeting: Callable[[App], str]) -> None:
    """Serve until a signal comes."""
    ended: asyncio.Future[signal.Signals] = asyncio.get_running_loop().create_future()

    def end(number: signal.Signals) -> None:
        if not ended.done():
            ended.set_result(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    app = App(settings)
    try:
        await app.start()
    except BaseException:
        # The admin is made all the same, and the password is never told again.
        if app.made_up_password:
            print(first_admin(settings, app.made_up_password), flush=True)
        raise
    print(greeting(app), flush=True)
    try:
        number = await ended
    finally:
        # At the keyboard nobody wants to wait; a supervisor lets running turns end.
        gentle = ended.done() and number is signal.SIGTERM
        print("Stopping …", flush=True)
        await app.stop(DRAIN_SECONDS if gentle else 0.0)


def welcome(app: App) -> str:
    settings = app.settings
    warning = "" if app.isolation.kind == "bwrap" else "WARNING, agents run unconfined: "
    lines = [
        ("Listening", app.url),
        ("Isolation", f"{app.isolation.kind}. {warning}{app.isolation.reason}"),
        ("Limits", app.isolation.limits),
        ("Claude CLI", f"{app.claude_version}, {app.claude}"),
        ("Credential", _credential(app)),
        ("Database", app.db.dialect),
        ("API key", _where_the_key_is(settings)),
        ("Telegram", _telegram(settings)),
    ]
    shown = "\n".join(f"  {name:<12}{text}" for name, text in lines)
    if app.made_up_password:
        shown += f"\n  {first_admin(settings, app.made_up_password)}"
    return f"claude-orchestrator {VERSION}\n{shown}"


def first_admin(settings: Settings, made_up: str) -> str:
    return f"First admin {settings.web_auth_username}, password {made_up} (shown only now)"


def _credential(app: App) -> str:
    names = ", ".join(app.settings.default_credential)
    if names:
        return f"{names} from the environment"
    if app.has_service_login:
        return "the login in DATA_DIR/service"
    return "none of the server's own: set ANTHROPIC_API_KEY, or let each user log in"


def _where_the_key_is(settings: Settings) -> str:
    if settings.orchestrator_api_key:
        return "ORCHESTRATOR_API_KEY"
    return str(settings.data_dir / "api-key")


def _telegram(settings: Settings) -> str:
    if settings.telegram_bot_token:
        return "off: this version has no bot yet"
    return "off: TELEGRAM_BOT_TOKEN is not set"


def _add_user(arguments: argparse.Namespace) -> int:
    asyncio.run(_add(config.from_environment(), arguments.slug, is_admin=arguments.admin))
    print(f"Added {arguments.slug}.")
    return 0


def _list_users(arguments: argparse.Namespace) -> int:
    for username, role in asyncio.run(_list(config.from_environment())):
        print(f"{username}  {role}")
    return 0


def _hash_password(arguments: argparse.Namespace) -> int:
    password = getpass.getpass("Password: ") if sys.stdin.isatty() else sys.stdin.readline()
    try:
        print(passwords.plain_hash(config.checked_password(password.rstrip("\r\n"))))
    except ValueError as error:
        raise ConfigError(f"The password {error}.") from None
    return 0


async def _add(settings: Settings, slug: str, *, is_admin: bool) -> None:
    async with _users(settings) as users:
        if users:
            await users.add(slug, is_admin=is_admin)
        else:
            await _ask_server(settings, "POST", json={"username": slug, "is_admin": is_admin})


async def _list(settings: Settings) -> list[tuple[str, str]]:
    async with _users(settings) as users:
        if users:
            return [(person.username, person.role) for person in await users.list()]
        answer = await _ask_server(settings, "GET")
        return [
            (one["username"], "admin" if one["is_admin"] else "user") for one in answer["users"]
        ]


@asynccontextmanager
async def _users(settings: Settings) -> AsyncIterator[Users | None]:
    """None while a server runs on SQLite: only it opens its file, so it must be asked."""
    lock = datadir.take_lock(settings.data_dir, alone=settings.uses_sqlite)
    if lock is None:
        yield None
        return
    async with AsyncExitStack() as undo:
        undo.push_async_callback(lock.release)
        db = Database(settings.database)
        undo.push_async_callback(db.close)
        users = Users(db, Hasher())
        undo.push_async_callback(users.close)
        await db.migrate()
        if made_up := await users.make_first_admin(settings):
            print(first_admin(settings, made_up))
        yield users


async def _ask_server(settings: Settings, method: str, **body: Any) -> dict[str, Any]:
    key = settings.orchestrator_api_key or datadir.api_key(settings.data_dir)
    url = f"http://{_reachable(settings.host)}:{settings.port}/auth/users"
    try:
        async with (
            aiohttp.ClientSession(headers={"X-API-Key": key}, timeout=PATIENCE) as client,
            client.request(method, url, **body) as response,
        ):
            answer: dict[str, Any] = await response.json()
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise ConfigError(
            f"A server holds DATA_DIR, but none answers at {url}; "
            "give the HOST and PORT that it was started with."
        ) from error
    if answer.get("error") == "unauthorized":
        raise ConfigError(
            f"The server at {url} refuses this API key; give the ORCHESTRATOR_API_KEY that it has."
        )
    if "error" in answer:
        raise AppError(answer["error"], answer["message"])
    return answer


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, shown_host(host))  # noqa: S104
