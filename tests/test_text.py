"""No file names a package registry or an address to fetch packages from, or a developer's machine.

Packages come from wherever the machine's own pip and npm take them. The letters in brackets keep
this file from finding itself.
"""

import re
from pathlib import Path

import pytest

from tests import tree

PINS = {".npmrc", "package-lock.json", "package.json", "pyproject.toml", "setup.sh"}
PINS |= {"requirements.txt", "requirements-dev.txt"}

REGISTRY = re.compile(r"\b(py[p]i|npm[j]s|python[h]osted|yarn[p]kg)\.(org|com)\b|\bdeb\.[d]ebian\b")
FETCHED = re.compile(
    r"\b(https?|file|git\+\w+):[/]/|\"[r]esolved\"|(find|index|extra-index|trusted)-(links|url|host)"
)
HOME = re.compile(r"(?<![\w.}>])/([h]ome|[U]sers)/\w+|\.[p]yenv/")


def faults(path: str, text: str, checkout: Path = tree.ROOT) -> list[str]:
    patterns = [REGISTRY, HOME, *([FETCHED] if path in PINS else [])]
    # A checkout right under / has a name like /app, which files may well mention.
    if len(checkout.parts) > 2:
        patterns.append(re.compile(re.escape(str(checkout)) + r"\b"))
    return [
        f"{path}:{number}: {match[0]}"
        for number, line in enumerate(text.splitlines(), 1)
        for pattern in patterns
        if (match := pattern.search(line))
    ]


def test_no_file_names_a_registry_or_a_developers_machine() -> None:
    found = []
    for path in tree.files():
        text = (tree.ROOT / path).read_bytes().decode(errors="ignore")
        found += faults(path.as_posix(), text)
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize("pins", sorted(PINS))
def test_the_pinned_files_are_where_they_are_looked_for(pins: str) -> None:
    assert Path(pins) in tree.files()


FAULTY = [
    ("README.md", "get it from py" + "pi.org"),
    ("Dockerfile", "RUN echo deb http://deb" + ".debian.org/debian > sources.list"),
    ("package-lock.json", '"resolved' + '": "somewhere"'),
    ("requirements.txt", "aiohttp @ https:" + "//example.org/aiohttp.whl"),
    ("requirements-dev.txt", "--find" + "-links wheels"),
    ("requirements.txt", "#    uv pip compile /srv/checkouts/one/pyproject.toml"),
    ("config.py", 'DATA = "/ho' + 'me/somebody/data"'),
    ("notes.md", "see /Us" + "ers/somebody/notes"),
    ("Makefile", "PYTHON = /root/.py" + "env/shims/python"),
]


@pytest.mark.parametrize(("path", "text"), FAULTY)
def test_a_fault_is_found(path: str, text: str) -> None:
    assert faults(path, text, checkout=Path("/srv/checkouts/one"))


def test_addresses_are_allowed_where_nothing_is_fetched_from_them() -> None:
    text = "http://127.0.0.1:8765 and https://example.org in DATA_DIR/users/<user>/workspace/"
    assert faults("README.md", text) == []
