"""Log lines: readable ones for people, JSON for machines. No secrets, no query strings."""

import json
import logging
import sys
import time

import orjson

from config import LogFormat, LogLevel

EXTRA = ("session", "user", "action")
# What would begin a line, move a cursor, or be no character at all.
UNPRINTED = (*range(9), *range(10, 32), *range(127, 160), 0x2028, 0x2029, *range(0xD800, 0xE000))
SHOWN = {code: f"\\x{code:02x}" for code in UNPRINTED}


class TextLines(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """One line, whatever was asked of us: a forged one would look like ours."""
        more = " ".join(f"{name}={value}" for name, value in _extra(record).items())
        return f"{super().formatMessage(record)} {more}".rstrip().translate(SHOWN)


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str).decode()
        except TypeError:  # half a pair of surrogates, which orjson refuses
            return json.dumps(line, default=str)


class RequestsUnshown(logging.Filter):
    """aiohttp logs a malformed request as it came, and a key may be in it."""

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.exc_info[0] if record.exc_info else None
        if kind and "HttpProcessingError" in (base.__name__ for base in kind.__mro__):
            record.msg, record.exc_info = f"{record.msg}: it was malformed", None
        return True


REQUESTS_UNSHOWN = RequestsUnshown()


def set_up_logging(kind: LogFormat, level: LogLevel) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if kind == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("aiohttp.server").addFilter(REQUESTS_UNSHOWN)
    # asyncio's debug lines and peewee's queries would show more than the level asks for.
    for name in ("asyncio", "peewee"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {name: getattr(record, name) for name in EXTRA if hasattr(record, name)}
