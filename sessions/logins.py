"""Which credential an agent gets: its user's own login, else the server's default."""

import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

LARGEST = 64 * 1024


def has_login(home: Path) -> bool:
    oauth = _oauth(home)
    return bool(oauth.get("refreshToken") or oauth.get("accessToken"))


def service_token(home: Path) -> str:
    """The access token of the service's own login, while it is good."""
    oauth = _oauth(home)
    expires_at = oauth.get("expiresAt")
    good = isinstance(expires_at, int | float) and expires_at > time.time() * 1000
    return str(oauth.get("accessToken") or "") if good else ""


def credential(home: Path, default: Mapping[str, str], service_home: Path) -> dict[str, str]:
    """The CLI would prefer a key in its environment to a login in its home, so one of the two."""
    if has_login(home):
        return {}
    if default:
        return dict(default)
    token = service_token(service_home)
    return {"CLAUDE_CODE_OAUTH_TOKEN": token} if token else {}


def _oauth(home: Path) -> dict[str, Any]:
    try:
        data = orjson.loads(_read(home / ".claude" / ".credentials.json"))
    except (OSError, orjson.JSONDecodeError):
        return {}
    oauth = data.get("claudeAiOauth") if isinstance(data, dict) else None
    return oauth if isinstance(oauth, dict) else {}


def _read(path: Path) -> bytes:
    """The home is its user's: a link or a pipe in this place must not hold the server up."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return os.read(descriptor, LARGEST) if regular else b""
    finally:
        os.close(descriptor)
