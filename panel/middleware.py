"""Around every request: who calls, deny by default, errors in words, one line in the log."""

import logging
import time
from collections.abc import Awaitable, Callable

import orjson
from aiohttp import web
from aiohttp.typedefs import Middleware

from errors import AppError, forbidden, not_found
from panel.caller import CALLER, Doorkeeper, Rule

STATUS = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "too_large": 413,
    "invalid": 422,
    "too_many": 429,
    "internal": 500,
    "unavailable": 503,
}
CLIENT_GONE = 499  # nobody gets it; the log has it
RULES = web.AppKey("rules", dict[web.AbstractRoute, Rule])
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)


def json_response(data: object, status: int = 200) -> web.Response:
    return json_bytes(orjson.dumps(data), status)


def json_bytes(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json", charset="utf-8")


def shown_path(request: web.Request) -> str:
    """As it came, so that it stays on one line; without its query, which may hold a key."""
    return request.rel_url.raw_path


def has_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


@web.middleware
async def errors_in_words(request: web.Request, handler: Handler) -> web.StreamResponse:
    began = time.monotonic()
    response = await _answered(request, handler)
    took = (time.monotonic() - began) * 1000
    log.debug("%s %s %d %.1f ms", request.method, shown_path(request), response.status, took)
    return response


def deny_by_default(doorkeeper: Doorkeeper) -> Middleware:
    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[CALLER] = await doorkeeper.admit(request, _rule(request))
        return await handler(request)

    return middleware


def _rule(request: web.Request) -> Rule:
    if request.match_info.http_exception:
        # An address that leads nowhere says so only to those who may look.
        return Rule.ADMIN
    rule = request.app[RULES].get(request.match_info.route)
    if rule is None:
        raise forbidden("This address has no rule yet that lets anybody in.")
    return rule


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except AppError as error:
        return error_response(error)
    except web.HTTPNotFound:
        return error_response(not_found("There is nothing at this address."))
    except web.HTTPMethodNotAllowed as error:
        return _not_allowed(error)
    except web.HTTPException:
        raise
    except Exception as error:
        if isinstance(error, ConnectionResetError) and has_gone(request):
            return web.Response(status=CLIENT_GONE)
        log.exception("a request broke: %s %s", request.method, shown_path(request))
        return error_response(AppError("internal", "Something broke; the server's log says what."))


def _not_allowed(error: web.HTTPMethodNotAllowed) -> web.Response:
    allowed = ", ".join(sorted(error.allowed_methods))
    response = error_response(AppError("method_not_allowed", f"This address takes {allowed} only."))
    response.headers["Allow"] = allowed
    return response


def error_response(error: AppError) -> web.Response:
    response = json_response(
        {"error": error.code, "message": error.message}, STATUS.get(error.code, 500)
    )
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    return response
