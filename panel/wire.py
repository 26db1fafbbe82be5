"""The connection itself: what comes in and is no HTTP request that can be read."""

import logging
from typing import Any

from aiohttp import http_exceptions, web

from errors import AppError, bad_request
from panel.middleware import error_response

UNREADABLE = "This is no HTTP request that can be read: its first line, a header or its coding is "

log = logging.getLogger(__name__)


class Wire(web.RequestHandler):
    """By itself, aiohttp quotes what it can't read to the client and in the log, keys included."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was begun already")
        response = error_response(_told(status, exc))
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """A body that can't be decoded was answered, and is then found so once more."""
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kw)


def _told(status: int, exc: BaseException | None) -> AppError:
    if status >= 500:
        log.error("a request broke before it was handled", exc_info=exc)
        return AppError("internal", "Something broke; the server's log says what.")
    log.debug("no readable request: %s", type(exc).__name__)
    too_long = isinstance(exc, http_exceptions.LineTooLong)
    return bad_request(UNREADABLE + ("too long." if too_long else "wrong."))
