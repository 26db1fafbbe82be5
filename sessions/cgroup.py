"""A whole tree of processes, bounded, counted and ended: by control group, else by /proc.

The groups lie below the server's own, so that a limit set on the server holds for
its children too.
"""

import asyncio
import contextlib
import os
import re
import secrets
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Self

MEMORY_LIMIT = 2 * 1024**3
PROCESS_LIMIT = 512
SWEEP_SECONDS = 2.0

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_ENTER = (
    'until [ "$1" = -- ]; do echo 0 >"$1/cgroup.procs" || exit 126; shift; done; '
    'shift; unset PWD OLDPWD; exec "$@"'
)


@dataclass(frozen=True, slots=True)
class Group:
    """One box's control group: a folder in each of the hierarchies that are ours to use."""

    folders: tuple[Path, ...]

    def create(self) -> None:
        for folder in self.folders:
            folder.parent.mkdir(exist_ok=True)
            _hand_down(folder.parent)
            folder.mkdir(exist_ok=True)
            _limit(folder)

    def entering(self) -> tuple[str, ...]:
        """The words that, put before a program's, make it enter the group before it runs."""
        return ("/bin/sh", "-c", _ENTER, "enter", *map(str, self.folders), "--")

    def pids(self) -> set[int]:
        found: set[int] = set()
        for folder in self.folders:
            with contextlib.suppress(OSError):
                found.update(map(int, (folder / "cgroup.procs").read_text().split()))
        return found

    def kill(self) -> None:
        for folder in self.folders:
            _write(folder / "cgroup.kill", "1")
        send(self.pids(), signal.SIGKILL)
        for folder in self.folders:
            _write(folder / "pids.max", "0")  # so that no fork outruns the second volley
        send(self.pids(), signal.SIGKILL)

    def memory(self) -> int | None:
        """Bytes of its processes' own memory; the page cache is not theirs to answer for."""
        for folder in self.folders:
            with contextlib.suppress(OSError):
                return _anonymous((folder / "memory.stat").read_text())
        return None

    def remove(self) -> bool:
        """The last one takes the server's own place along."""
        for folder in self.folders:
            for place in (folder, folder.parent):
                with contextlib.suppress(OSError):
                    place.rmdir()
        return not any(folder.exists() for folder in self.folders)


@dataclass(frozen=True, slots=True)
class Groups:
    """The server's own place among the control groups; each box gets a group below it."""

    parents: tuple[Path, ...]
    bounds_memory: bool
    bounds_processes: bool

    @classmethod
    def find(cls, name: str, *, proc: Path = Path("/proc/self")) -> Self | None:
        """None where no control group can be written. `name` tells two servers apart."""
        own = _own_folders(proc)
        parents = [own[kind] / name for kind in ("memory", "pids") if kind in own]
        if not parents and "" in own:
            parents = [_delegated(own[""], name)]
        usable = tuple(parent for parent in parents if _usable(parent))
        if not usable:
            return None
        trial = Group(tuple(parent / "trial" for parent in usable))
        trial.create()
        found = cls(
            usable,
            bounds_memory=_has(trial, "memory.max") or _has(trial, "memory.limit_in_bytes"),
            bounds_processes=_has(trial, "pids.max"),
        )
        trial.remove()
        return found

    def group(self, name: str) -> Group:
        """A new group; its last letters are random, since an old one may still be going away."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot name a control group.")
        unique = f"{name}.{secrets.token_hex(3)}"
        return Group(tuple(parent / unique for parent in self.parents))

    def leftovers(self) -> list[Group]:
        names: set[str] = set()
        for parent in self.parents:
            with contextlib.suppress(OSError):
                names.update(child.name for child in parent.iterdir() if child.is_dir())
        return [Group(tuple(parent / name for parent in self.parents)) for name in sorted(names)]

    async def sweep(self) -> int:
        """End and remove what an earlier server left. Only at the start: it spares nobody."""
        left = self.leftovers()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SWEEP_SECONDS):
                for group in left:
                    while not _ended(group):
                        await asyncio.sleep(0.005)
        return len(left)


def tree(root: int, mark: str | None = None) -> set[int]:
    """Root, its descendants, whoever shares their session or group, whoever bears the mark."""
    table = {pid: _kinship(pid) for pid in _everybody()}
    found = {root}
    if mark is not None:
        found.update(pid for pid in table if _bears(pid, mark))
    grown = True
    while grown:
        more = {pid for pid, kin in table.items() if kin & found} - found
        found |= more
        grown = bool(more)
    return {pid for pid in found if pid == root or table[pid]} - {os.getpid()}


def send(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def resident(pids: set[int]) -> int:
    """Bytes that these processes hold for themselves, shared pages left out."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{pid}/statm").read_text().split()
            total += int(fields[1]) - int(fields[2])
    return total * os.sysconf("SC_PAGE_SIZE")


def stat_fields(pid: int) -> list[str]:
    """/proc/<pid>/stat from the state on; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def children(pid: int) -> list[int]:
    try:
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return [other for other in _everybody() if stat_fields(other)[1:2] == [str(pid)]]


def inner_pid(pid: int) -> int:
    """Its number in the innermost PID namespace that it lives in."""
    match = re.search(r"^NSpid:.*\s(\d+)$", _text(Path(f"/proc/{pid}/status")), re.MULTILINE)
    return int(match[1]) if match else pid


def _everybody() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208


def _kinship(pid: int) -> frozenset[int]:
    """Parent, group and session of a process; nothing of a dead one."""
    fields = stat_fields(pid)
    if not fields or fields[0] in "ZX":
        return frozenset()
    return frozenset(map(int, fields[1:4])) - {0, 1}


def _bears(pid: int, mark: str) -> bool:
    try:
        return mark.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _own_folders(proc: Path) -> dict[str, Path]:
    """Where this process stands in each hierarchy: by controller, version 2 under ''."""
    paths: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in (proc / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            paths.update(dict.fromkeys(controllers.split(","), path))
    found: dict[str, Path] = {}
    with contextlib.suppress(OSError):
        for line in (proc / "mountinfo").read_text().splitlines():
            place, _, kind = line.partition(" - ")
            root, mountpoint = place.split()[3:5]
            filesystem, _, options = kind.split()[:3]
            names = {"cgroup": options.split(","), "cgroup2": [""]}.get(filesystem, [])
            for name in set(names) & set(paths):
                found.setdefault(name, _below(Path(mountpoint), root, paths[name]))
    return found


def _below(mountpoint: Path, root: str, path: str) -> Path:
    """A container may be shown its own group as the mount's root, yet hear its outer path."""
    inner = Path(path)
    return mountpoint / inner.relative_to(root) if inner.is_relative_to(root) else mountpoint


def _delegated(own: Path, name: str) -> Path:
    """In version 2 a group either holds processes or hands controllers down."""
    aside = f"{name}-server"
    if own.name == aside:
        own = own.parent
    if not _hand_down(own) and _text(own / "cgroup.procs").split() == [str(os.getpid())]:
        with contextlib.suppress(OSError):
            (own / aside).mkdir(exist_ok=True)
            _write(own / aside / "cgroup.procs", str(os.getpid()))
        _hand_down(own)
    return own / name


def _hand_down(folder: Path) -> bool:
    written = [_write(folder / "cgroup.subtree_control", f"+{c}") for c in ("memory", "pids")]
    return all(written)


def _usable(parent: Path) -> bool:
    try:
        parent.mkdir(exist_ok=True)
    except OSError:
        return False
    return os.access(parent / "cgroup.procs", os.W_OK)


def _limit(folder: Path) -> None:
    for name, value in (
        ("memory.limit_in_bytes", MEMORY_LIMIT),
        ("memory.memsw.limit_in_bytes", MEMORY_LIMIT),
        ("memory.max", MEMORY_LIMIT),
        ("memory.swap.max", 0),
        ("pids.max", PROCESS_LIMIT),
    ):
        _write(folder / name, str(value))


def _ended(group: Group) -> bool:
    group.kill()
    return not group.pids() and group.remove()


def _has(group: Group, name: str) -> bool:
    return any((folder / name).exists() for folder in group.folders)


def _write(path: Path, text: str) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(descriptor, text.encode())
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _anonymous(statistics: str) -> int:
    values = dict(line.split() for line in statistics.splitlines())
    return int(values.get("anon") or values.get("total_rss") or 0)
