"""System calls that no agent needs, refused by the kernel: a filter for bwrap's --seccomp.

A nested user namespace would hand an agent the kernel's whole mount and network surface;
keyrings and TIOCSTI reach around the sandbox.
"""

import errno
import struct
from typing import NamedTuple

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_CLONE_NEWUSER = 0x10000000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C


class _Machine(NamedTuple):
    audit: int
    clone: int
    unshare: int
    ioctl: int
    keyrings: tuple[int, int, int]
    clone3: int = 435


_MACHINES = {
    "x86_64": _Machine(0xC000003E, 56, 272, 16, (248, 249, 250)),
    "aarch64": _Machine(0xC00000B7, 220, 97, 29, (217, 218, 219)),
}


def rules(machine: str) -> bytes | None:
    """The filter's program for this kind of machine, None where its numbers are unknown."""
    known = _MACHINES.get(machine)
    if known is None:
        return None
    program = [
        _step(_LOAD, _MACHINE),
        _step(_EQUAL, known.audit, 1, 0),
        _refuse(errno.ENOSYS),
        _step(_LOAD, _NUMBER),
        *_when(_AT_LEAST, 0x40000000, errno.ENOSYS),  # x32, which would dodge the numbers
        *_when(_EQUAL, known.clone3, errno.ENOSYS),  # its flags are out of sight: use clone
    ]
    for number in known.keyrings:
        program += _when(_EQUAL, number, errno.EPERM)
    for number in (known.clone, known.unshare):
        program += _when_argument(number, 0, _ANY_BIT, (_CLONE_NEWUSER,))
    program += _when_argument(known.ioctl, 1, _EQUAL, (_TIOCSTI, _TIOCLINUX))
    return b"".join((*program, _step(_RETURN, _ALLOW)))


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _refuse(error: int) -> bytes:
    return _step(_RETURN, _REFUSE | error)


def _when(test: int, value: int, error: int) -> list[bytes]:
    return [_step(test, value, 0, 1), _refuse(error)]


def _when_argument(number: int, position: int, test: int, values: tuple[int, ...]) -> list[bytes]:
    checks = [step for value in values for step in _when(test, value, errno.EPERM)]
    body = [_step(_LOAD, _ARGUMENTS + 8 * position), *checks, _step(_RETURN, _ALLOW)]
    return [_step(_EQUAL, number, 0, len(body)), *body]
