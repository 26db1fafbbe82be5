"""Log lines: readable, one line each, and without what nobody may read."""

import asyncio
import json
import logging
import re
from collections.abc import Iterator

import pytest
from aiohttp import web

from config import LogFormat
from logs import set_up_logging

AT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
FORGED = "asked for /a\n2026-01-01T00:00:00Z ERROR   main: all is lost\r\x1b[2J\x85\udcff"


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


@pytest.mark.parametrize("kind", ["text", "json"])
def test_a_line_says_when_how_grave_who_and_what(
    kind: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_logging(kind, "info")
    about = {"session": "abc", "user": "ann", "action": "start", "other": "not shown"}
    logging.getLogger("sessions.engine").warning("it took %d ms", 5, extra=about)
    line = said(capsys)
    if kind == "text":
        words = "WARNING sessions.engine: it took 5 ms session=abc user=ann action=start\n"
        assert re.fullmatch(f"{AT} {words}", line)
        return
    shown = json.loads(line)
    assert re.fullmatch(AT, shown.pop("at"))
    assert shown == {
        "level": "warning",
        "logger": "sessions.engine",
        "message": "it took 5 ms",
        "session": "abc",
        "user": "ann",
        "action": "start",
    }


def test_nobody_can_forge_a_line_of_text(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("text", "info")
    logging.getLogger("main").info("%s", FORGED, extra={"user": FORGED})
    [line] = said(capsys).splitlines()
    assert line.count("\\x0a2026-01-01T00:00:00Z ERROR") == 2
    assert line.isprintable()


def test_nobody_can_forge_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("json", "info")
    logging.getLogger("main").info("%s", FORGED, extra={"user": FORGED})
    [line] = said(capsys).splitlines()
    assert json.loads(line)["message"] == json.loads(line)["user"] == FORGED


@pytest.mark.parametrize("kind", ["text", "json"])
def test_an_exception_is_shown_with_where_it_came_from(
    kind: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_logging(kind, "info")
    try:
        raise ValueError("the reason")
    except ValueError:
        logging.getLogger("main").exception("it broke", extra={"session": "abc"})
    shown = said(capsys)
    first = shown.splitlines()[0]
    if kind == "text":
        assert first.endswith("ERROR   main: it broke session=abc")
    else:
        line = json.loads(shown)
        assert (line["message"], line["session"]) == ("it broke", "abc")
        shown = line["exception"]
    assert shown.rstrip().endswith("ValueError: the reason")
    assert "test_logs.py" in shown


def test_the_level_decides_what_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("text", "warning")
    logging.getLogger("main").info("quiet")
    assert said(capsys) == ""
    set_up_logging("text", "debug")
    logging.getLogger("main").debug("loud")
    assert "loud" in said(capsys)


def test_queries_are_never_said(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("text", "debug")
    logging.getLogger("peewee").debug(("SELECT ?", ["a secret"]))
    logging.getLogger("asyncio").debug("poll 30 ms")
    assert said(capsys) == ""


def test_setting_up_twice_does_not_say_everything_twice(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        set_up_logging("text", "info")
    logging.getLogger("main").info("once")
    assert said(capsys).count("once") == 1


MALFORMED = [
    b"GET /sessions?api_key=hush HTTP/9.x\r\n\r\n",
    b"G\x01T /sessions?api_key=hush HTTP/1.1\r\n\r\n",
    b"GET /sessions?api_key=hush" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
    b"GET /sessions HTTP/1.1\r\nX-API-Key: hush\0\r\n\r\n",
    b"GET /sessions HTTP/1.1\r\nAuthorization hush\r\n\r\n",
]


async def test_a_malformed_request_is_not_shown_as_it_came(
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_up_logging("text", "debug")
    runner = web.AppRunner(web.Application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    for request in MALFORMED:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(request)
        assert b"400 Bad Request" in await reader.read()
        writer.close()
        await writer.wait_closed()
    await runner.cleanup()
    lines = said(capsys)
    assert lines.count("Error handling request from 127.0.0.1: it was malformed\n") == len(
        MALFORMED
    )
    assert "hush" not in lines
