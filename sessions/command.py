"""What is to be started, and what is handed over to it out of everybody's sight."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from sessions.cgroup import Group

_GATE = 'cd -- "$1" || exit 126; shift; unset OLDPWD; echo; IFS= read -r go && exec "$@"'


@dataclass(frozen=True, slots=True)
class Memfd:
    """Handed over in a nameless file, NUL after each part; its number takes its place."""

    content: "tuple[Argument, ...] | bytes"


@dataclass(frozen=True, slots=True)
class Info:
    """Takes the number of the file in which bwrap writes the PID of its first process.

    Not a pipe: were the server dead, writing would kill bwrap between the making of its
    first process and the word that lets that go on, and an orphan would wait for ever.
    """


Argument = str | Memfd | Info


@dataclass(frozen=True, slots=True)
class Command:
    argv: tuple[Argument, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    group: Group | None = None
    mark: str | None = None  # NAME=value in the environment of the whole tree
    contained: bool = False  # in a PID namespace that dies whole


def gated(cwd: Path, program: tuple[str, ...]) -> tuple[str, ...]:
    """Enter the folder, say so with an empty line, wait for one, become the program."""
    return ("/bin/sh", "-c", _GATE, "gate", str(cwd), *program)


class Handover:
    """The descriptors that go along with one start; ours are closed when it has happened."""

    def __init__(self) -> None:
        self.info: int | None = None  # stays open
        self._files: list[int] = []

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (*self._files, *(() if self.info is None else (self.info,)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for descriptor in self.descriptors if error else self._files:
            os.close(descriptor)

    def words(self, argv: tuple[Argument, ...]) -> list[str]:
        return [self._word(argument) for argument in argv]

    def _word(self, argument: Argument) -> str:
        if isinstance(argument, str):
            return argument
        if isinstance(argument, Info):
            self.info = os.memfd_create("info")
            return str(self.info)
        content = argument.content
        if not isinstance(content, bytes):
            content = b"".join(word.encode() + b"\0" for word in self.words(content))
        return str(self._nameless_file(content))

    def _nameless_file(self, content: bytes) -> int:
        descriptor = os.memfd_create("handed-over")
        self._files.append(descriptor)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor
