"""The judge of the house's order: who may import whom, one door for each foreign thing, and sizes.

It reads the syntax tree of every file and runs none. A new room gets its place in ORDER.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import tree

# A room may import those of the rows above its own; rooms of one row never meet.
ORDER = (
    ("errors", "migrations"),
    ("config",),
    ("datadir",),
    ("logs",),
    ("models",),
    ("db",),
    ("instances",),
    ("accounts", "sessions"),
    ("jobs",),
    ("memory", "projects"),
    ("bot", "panel"),
    ("main",),
)
SAME_ROOM = {"commands": "main"}
OUTSIDE = ("tests", "bench")
ALONE = Path("orchestrator-jobs")

FUNCTION_LINES = 60
FILE_LINES = 400
LONG_FILES = ("models.py", "migrations/")

RANKS = {room: rank for rank, row in enumerate(ORDER) for room in row}


class Door(NamedTuple):
    thing: str
    names: str
    inside: str


DOORS = (
    Door("Telegram", r"telegram\b", "bot/"),
    Door("the web server", r"aiohttp\.web|aiohttp_jinja2\b|jinja2\b", "panel/"),
    Door("HTTP", r"aiohttp\b", "panel/ sessions/ main.py commands.py"),
    Door(
        "other programs",
        r"(subprocess|pty|multiprocessing)\b|concurrent\.futures\.ProcessPool"
        r"|asyncio\.(subprocess|create_subprocess_)|.*\.subprocess_(exec|shell)$"
        r"|os\.(fork|exec[lv]|spawn|posix_spawn|system$|popen)",
        "sessions/process.py",
    ),
    Door("the environment", r"os\.(environ|getenv|putenv|unsetenv)", "config.py"),
    Door(
        "the tables",
        r"(peewee|playhouse)\b",
        "models.py db.py migrations/ instances.py accounts/ sessions/ jobs/ memory/ projects/ "
        "bot/inbox.py bot/outbox.py",
    ),
    Door("the database's drivers", r"(sqlite3|psycopg)\b", "db.py"),
)


class Use(NamedTuple):
    line: int
    name: str
    imported: bool


def faults(path: Path, source: str) -> list[str]:
    syntax = ast.parse(source)
    found = [*_size_faults(path, source, syntax)]
    if path.parts[0] not in OUTSIDE:
        uses = list(_uses(path, syntax))
        found += [*_order_faults(path, uses), *_door_faults(path, uses)]
    return sorted({f"{path}:{line}: {what}" for line, what in found})


def _order_faults(path: Path, uses: list[Use]) -> Iterator[tuple[int, str]]:
    imports = [(use.line, use.name.partition(".")[0]) for use in uses if use.imported]
    if path == ALONE:
        yield from (
            (line, f"imports {name}: it has the standard library only")
            for line, name in imports
            if name not in sys.stdlib_module_names
        )
        return
    own = _room(path.parts[0].removesuffix(".py"))
    if own not in RANKS:
        yield 1, f"{own} has no place in ORDER"
        return
    for line, name in imports:
        other = _room(name)
        above = other in RANKS and RANKS[other] < RANKS[own]
        if other != own and not above and other in {*RANKS, *OUTSIDE}:
            yield line, f"{own} may not import {other}"


def _door_faults(path: Path, uses: list[Use]) -> Iterator[tuple[int, str]]:
    for use in uses:
        for door in DOORS:
            here = path.as_posix().startswith(tuple(door.inside.split()))
            if re.match(door.names, use.name) and not here:
                yield use.line, f"{use.name}: {door.thing} only in {door.inside}"


def _size_faults(path: Path, source: str, syntax: ast.Module) -> Iterator[tuple[int, str]]:
    length = len(source.splitlines())
    if length > FILE_LINES and not path.as_posix().startswith(LONG_FILES):
        yield length, f"{length} lines: is it two files?"
    for node in ast.walk(syntax):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                yield node.lineno, f"{node.name} has {length} lines: does it hide a decision?"


def _room(module: str) -> str:
    return SAME_ROOM.get(module, module)


def _uses(path: Path, syntax: ast.Module) -> Iterator[Use]:
    """Every imported name in full, and every dotted name with its first part resolved."""
    known: dict[str, str] = {}
    for node in ast.walk(syntax):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                known[alias.asname or first] = alias.name if alias.asname else first
                yield Use(node.lineno, alias.name, imported=True)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{_module(path, node)}.{alias.name}"
                known[alias.asname or alias.name] = name
                yield Use(node.lineno, name, imported=True)
    for node in ast.walk(syntax):
        if isinstance(node, ast.Attribute):
            yield Use(node.lineno, _dotted(node, known), imported=False)


def _module(path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    folder = path.parent.parts[: len(path.parent.parts) - node.level + 1]
    return ".".join([*folder, *([node.module] if node.module else [])])


def _dotted(node: ast.expr, known: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, known)}.{node.attr}"
    return known.get(node.id, "?") if isinstance(node, ast.Name) else "?"


def test_every_file_keeps_the_order_the_doors_and_the_sizes() -> None:
    paths = [path for path in tree.files() if path.suffix == ".py" or path == ALONE]
    assert len(paths) > len(DOORS), "the files were not found"
    found = [fault for path in paths for fault in faults(path, (tree.ROOT / path).read_text())]
    assert not found, "\n".join(["", *found])


LONG_FUNCTION = "def f():\n" + "    x = 1\n" * FUNCTION_LINES
LONG_METHOD = "class A:\n    async def f(self):\n" + "        x = 1\n" * FUNCTION_LINES
LONG_FILE = "x = 1\n" * (FILE_LINES + 1)

FAULTY = [
    # The order
    ("errors.py", "import config", "errors may not import config"),
    ("config.py", "from models import User", "config may not import models"),
    ("models.py", "import db", "models may not import db"),
    ("db.py", "from accounts import users", "db may not import accounts"),
    ("migrations/0001.py", "import models", "migrations may not import models"),
    ("accounts/vault.py", "from sessions.engine import Engine", "accounts may not import sessions"),
    ("sessions/logins.py", "import accounts.vault as v", "sessions may not import accounts"),
    ("sessions/a.py", "def f():\n    from jobs import cron", "sessions may not import jobs"),
    ("sessions/a.py", "if TYPE_CHECKING:\n    import bot", "sessions may not import bot"),
    ("bot/app.py", "from panel.app import Panel", "bot may not import panel"),
    ("panel/jobs/handlers.py", "import bot.outbox", "panel may not import bot"),
    ("panel/app.py", "import main", "panel may not import main"),
    ("panel/app.py", "import commands", "panel may not import main"),
    ("panel/app.py", "from ..bot import app", "panel may not import bot"),
    ("main.py", "from tests.fakes import model", "main may not import tests"),
    ("helpers.py", "", "helpers has no place in ORDER"),
    ("orchestrator-jobs", "import aiohttp", "the standard library only"),
    ("orchestrator-jobs", "import config", "the standard library only"),
    # The doors
    ("sessions/a.py", "import telegram", "Telegram only in"),
    ("main.py", "from telegram.ext import Application", "Telegram only in"),
    ("main.py", "from aiohttp import web", "the web server only in"),
    ("sessions/a.py", "import aiohttp.web", "the web server only in"),
    ("sessions/a.py", "import aiohttp\naiohttp.web.Response()", "the web server only in"),
    ("sessions/a.py", "from aiohttp.web_response import Response", "the web server only in"),
    ("accounts/a.py", "from aiohttp import ClientSession", "HTTP only in"),
    ("db.py", "import subprocess", "other programs only in"),
    ("panel/a.py", "import pty", "other programs only in"),
    ("sessions/claude.py", "from subprocess import run", "other programs only in"),
    ("sessions/claude.py", "import os as o\no.fork()", "other programs only in"),
    ("sessions/claude.py", "from os import execvpe", "other programs only in"),
    ("main.py", "import os\nos.system('ls')", "other programs only in"),
    ("main.py", "import asyncio\nasyncio.create_subprocess_exec()", "other programs only in"),
    ("main.py", "from asyncio import create_subprocess_shell", "other programs only in"),
    ("main.py", "from asyncio.subprocess import PIPE", "other programs only in"),
    ("main.py", "get_loop().subprocess_exec(P)", "other programs only in"),
    ("main.py", "import os\nos.environ['A']", "the environment only in"),
    ("db.py", "from os import getenv", "the environment only in"),
    ("sessions/process.py", "import os\nos.environ.copy()", "the environment only in"),
    ("panel/a.py", "import peewee", "the tables only in"),
    ("main.py", "from playhouse.migrations import Runner", "the tables only in"),
    ("bot/handlers/a.py", "from peewee import fn", "the tables only in"),
    ("models.py", "import sqlite3", "drivers only in"),
    ("accounts/users.py", "def f():\n    import psycopg", "drivers only in"),
    # The sizes
    ("db.py", LONG_FUNCTION, "f has 61 lines"),
    ("tests/test_db.py", LONG_METHOD, "f has 61 lines"),
    ("bench/sessions.py", LONG_FILE, "401 lines"),
]

SOUND = [
    ("config.py", "import os\nfrom errors import AppError\nos.environ['A']"),
    ("sessions/process.py", "import asyncio, os, pty\nasyncio.create_subprocess_exec()\nos.fork()"),
    (
        "sessions/engine.py",
        "import os\nfrom models import User\nfrom . import process\nos.getpid()",
    ),
    ("sessions/a.py", "import peewee\nfrom aiohttp import ClientSession\naccounts.users.all()"),
    (
        "panel/app.py",
        "from aiohttp import web\nfrom sessions.engine import Engine\nimport jobs.cron",
    ),
    ("panel/sessions/handlers.py", "from ..middleware import Caller\nfrom . import pages"),
    ("bot/inbox.py", "import telegram\nimport peewee\nfrom models import Update"),
    ("commands.py", "import main\nimport panel.app\nimport aiohttp"),
    ("db.py", "import sqlite3\nimport psycopg\nfrom playhouse.migrations import Runner"),
    ("tests/test_a.py", "import subprocess\nimport main\nimport os\nos.environ['A']"),
    ("models.py", LONG_FILE),
    ("db.py", LONG_FUNCTION.replace("    x = 1\n", "", 1)),
    ("orchestrator-jobs", "import argparse\nimport os\nimport urllib.request"),
]


@pytest.mark.parametrize(("path", "source", "words"), FAULTY)
def test_a_fault_is_found(path: str, source: str, words: str) -> None:
    found = faults(Path(path), source)
    assert any(words in fault for fault in found), found


@pytest.mark.parametrize(("path", "source"), SOUND)
def test_what_is_sound_is_left_alone(path: str, source: str) -> None:
    assert faults(Path(path), source) == []
