"""Passwords, hashed with bcrypt off the event loop."""

import asyncio
import base64
import hashlib
import secrets
from concurrent.futures import ThreadPoolExecutor

import bcrypt

COST = 12
LONGEST_PLAIN = 72  # bytes; bcrypt takes no more


class Hasher:
    """At cost 12 a hash holds a core for a fifth of a second: in threads, and few of them."""

    def __init__(self, threads: int = 2) -> None:
        self._threads = ThreadPoolExecutor(threads, "bcrypt")

    async def hash(self, password: str) -> str:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, hashed, password)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def hashed(password: str) -> str:
    """Any length and any characters count in full: they are digested before."""
    return "sha256+" + bcrypt.hashpw(_digest(password), bcrypt.gensalt(COST)).decode()


def plain_hash(password: str) -> str:
    """The plain bcrypt form that WEB_AUTH_PASSWORD_HASH takes."""
    if len(password.encode()) > LONGEST_PLAIN:
        raise ValueError(f"may have at most {LONGEST_PLAIN} bytes, as bcrypt takes no more")
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(COST)).decode()


def matches(password: str, stored: str) -> bool:
    if stored.startswith("sha256+"):
        return bcrypt.checkpw(_digest(password), stored.removeprefix("sha256+").encode())
    encoded = password.encode()
    return len(encoded) <= LONGEST_PLAIN and bcrypt.checkpw(encoded, stored.encode())


def made_up() -> str:
    return secrets.token_urlsafe(15)


def _digest(password: str) -> bytes:
    return base64.b64encode(hashlib.sha256(password.encode()).digest())
