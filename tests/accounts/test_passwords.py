"""Passwords: hashed slowly, off the loop, whatever their length."""

import asyncio
import re
import threading

import bcrypt
import pytest

from accounts import passwords
from accounts.passwords import Hasher

HARD = [
    "correct horse battery",
    "x" * 72,
    "x" * 73,
    "x" * 1024,
    "nul\0inside the password",
    "\U0001f469\u200d\U0001f680 ünï côde " * 20,
    " spaces count ",
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "COST", 4)


@pytest.mark.parametrize("password", HARD)
def test_a_password_matches_its_hash_and_nothing_near_it(password: str) -> None:
    stored = passwords.hashed(password)
    assert passwords.matches(password, stored)
    assert not passwords.matches(password + "x", stored)
    assert not passwords.matches(password[:-1], stored)
    assert not passwords.matches(password.swapcase() + "\0", stored)
    assert not passwords.matches("", stored)


def test_the_same_password_has_another_hash_each_time() -> None:
    assert passwords.hashed("correct horse") != passwords.hashed("correct horse")
    assert "correct" not in passwords.hashed("correct horse")


@pytest.mark.parametrize("prefix", [b"2a", b"2b"])
def test_a_plain_hash_made_elsewhere_matches(prefix: bytes) -> None:
    stored = bcrypt.hashpw(b"correct horse", bcrypt.gensalt(4, prefix)).decode()
    assert passwords.matches("correct horse", stored)
    assert passwords.matches("correct horse", stored.replace("$2b$", "$2y$"))
    assert not passwords.matches("correct mule", stored)
    assert not passwords.matches("x" * 73, stored)


def test_a_plain_hash_takes_no_more_than_bcrypt_does() -> None:
    made = passwords.plain_hash("x" * 72)
    assert re.fullmatch(r"\$2b\$04\$[./A-Za-z0-9]{53}", made)
    assert passwords.matches("x" * 72, made)
    for long in ("x" * 73, "é" * 37):
        with pytest.raises(ValueError, match="at most 72 bytes, as bcrypt"):
            passwords.plain_hash(long)


def test_made_up_passwords_are_long_and_never_the_same() -> None:
    made = {passwords.made_up() for _ in range(100)}
    assert len(made) == 100
    assert min(map(len, made)) >= 20


def test_a_hash_costs_what_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert passwords.hashed("correct horse").startswith("sha256+$2b$12$")


async def test_hashing_does_not_hold_up_the_loop() -> None:
    hasher, turns = Hasher(), 0
    hashes = [asyncio.create_task(hasher.hash(f"password {number}")) for number in range(20)]
    while not all(task.done() for task in hashes):
        await asyncio.sleep(0)
        turns += 1
        busy = [thread for thread in threading.enumerate() if thread.name.startswith("bcrypt")]
        assert len(busy) <= 2
    hasher.close()
    assert turns > len(hashes)
    for number, task in enumerate(hashes):
        assert passwords.matches(f"password {number}", task.result())
