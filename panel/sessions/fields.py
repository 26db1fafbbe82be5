"""What the `/sessions` routes are given, checked."""

import base64
import binascii
import re
import uuid

import orjson
from aiohttp import web

from accounts.users import Person
from config import PERMISSION_MODES
from errors import invalid, not_found, too_large
from panel.body import MIB, Body
from panel.caller import person
from sessions.protocol import RULE, RULES_LIMIT
from sessions.store import Page
from sessions.workspace import Owner

PROMPT_LIMIT = 8 * MIB
DECISIONS = ("allow", "deny", "allow_session")
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
MOST_RULES = 200


def owner(someone: Person) -> Owner:
    return Owner(someone.id, someone.username, someone.uid)


def session(request: web.Request) -> tuple[Owner, str]:
    given = request.match_info["id"].lower()
    if not _is_id(given):
        raise not_found("There is no such session.")
    return owner(person(request)), given


def permission_mode(body: Body) -> str | None:
    mode = body.text("permission_mode")
    if mode is not None and mode not in PERMISSION_MODES:
        raise invalid(f"permission_mode must be one of {', '.join(PERMISSION_MODES)}.")
    return mode


def allowed_tools(body: Body) -> list[str]:
    rules = body.texts("allowed_tools")
    if not all(RULE.fullmatch(rule) for rule in rules):
        raise invalid(
            "allowed_tools takes one rule in each string, as in Read or Bash(git log:*), "
            "with no parentheses inside the parentheses."
        )
    if len(rules) > MOST_RULES or len(",".join(rules).encode()) > RULES_LIMIT:
        raise invalid(f"allowed_tools takes at most {MOST_RULES} rules, of 64 KiB in all.")
    return rules


def prompt(body: Body) -> str:
    text = body.needed("prompt")
    if len(text.encode()) > PROMPT_LIMIT:
        raise too_large(f"A prompt may have at most {PROMPT_LIMIT // MIB} MiB.")
    return text


def decision(body: Body) -> str:
    given = body.needed("decision")
    if given not in DECISIONS:
        raise invalid(f"decision must be one of {', '.join(DECISIONS)}.")
    return given


def turn_uuid(body: Body) -> str:
    given = body.text("uuid")
    if given is None:
        return str(uuid.uuid4())
    try:
        return str(uuid.UUID(given))
    except ValueError:
        raise invalid("uuid must be a UUID, as in 0b0c7a2e-5c0e-4f0e-9a55-6d0a1c6f6a55.") from None


def number(request: web.Request, name: str, default: int, least: int, most: int) -> int:
    given = request.query.get(name)
    if given is None:
        return default
    digits = given.isascii() and given.isdigit() and len(given) <= len(str(most))
    if not digits or not least <= int(given) <= most:
        raise invalid(f"{name} must be a whole number from {least} to {most}.")
    return int(given)


def cursor(last: Page | None) -> str | None:
    return base64.urlsafe_b64encode(orjson.dumps(last)).decode() if last else None


def page(request: web.Request) -> Page | None:
    given = request.query.get("cursor")
    if not given:
        return None
    try:
        active, last_id = orjson.loads(base64.urlsafe_b64decode(given))
    except (binascii.Error, ValueError, TypeError):
        active = last_id = None
    if not isinstance(active, int) or not 0 <= active < 2**63 or not _is_id(last_id):
        raise invalid("cursor must be the `next` of an earlier page.")
    return active, last_id


def _is_id(given: object) -> bool:
    return isinstance(given, str) and ID.fullmatch(given) is not None
