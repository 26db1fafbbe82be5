"""What a process may see, turned into arguments. It starts nothing: `process` does.

Only `choose` has something run: the CLI itself, in the full sandbox, to see that it works.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from errors import AppError, unavailable
from sessions import seccomp
from sessions.cgroup import MEMORY_LIMIT, PROCESS_LIMIT, Groups
from sessions.command import Argument, Command, Info, Memfd, gated
from sessions.process import run

__all__ = ["CLAUDE", "Box", "Command", "Isolation", "Mount", "choose", "wrap"]

CLAUDE = Path("/opt/orchestrator/bin/claude")  # where a bwrap box has the CLI
PROBE_UID = 19999
PROBE_SECONDS = 20.0

_NAMESPACES = (
    *("--die-with-parent", "--new-session", "--clearenv"),
    *("--unshare-pid", "--unshare-ipc", "--unshare-uts"),
)
_TO_CHANGE_USER = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")
_SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ETC = (
    *("alternatives", "ld.so.cache", "localtime", "os-release", "mime.types"),
    *("hosts", "host.conf", "nsswitch.conf", "resolv.conf", "gai.conf", "services", "protocols"),
    *("ssl/certs", "ssl/openssl.cnf", "ca-certificates/extracted", "crypto-policies"),
    *("pki/tls/certs", "pki/ca-trust/extracted"),
)


@dataclass(frozen=True, slots=True)
class Mount:
    source: Path
    target: Path
    writable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """What one process may see and be. Its folders belong to `uid`; its name is its own."""

    name: str
    username: str
    uid: int | None  # None: the server's own, when that is not root
    home: Path
    cwd: Path
    tmp: Path
    env: Mapping[str, str]
    mounts: tuple[Mount, ...] = ()


@dataclass(frozen=True, slots=True)
class Isolation:
    kind: Literal["bwrap", "none"]
    reason: str  # one sentence for people
    groups: Groups | None = None
    bwrap: str = ""
    server_uid: int = field(default_factory=os.geteuid)

    @property
    def limits(self) -> str:
        """What bounds each process here, for people."""
        memory = f"{MEMORY_LIMIT // 1024**3} GiB of memory"
        bounds = []
        if self.groups and self.groups.bounds_memory:
            bounds.append(f"{memory} each")
        if self.groups and self.groups.bounds_processes:
            bounds.append(f"{PROCESS_LIMIT} processes each")
        elif self.kind == "bwrap" and self.server_uid == 0:
            bounds.append(f"{PROCESS_LIMIT} processes for each user")
        return ", ".join(bounds) or "none"


async def choose(
    wanted: Literal["auto", "bwrap", "none"],
    cli: Path,
    scratch: Path,
    *,
    groups: Groups | None = None,
    probe_uid: int = PROBE_UID,
    search_path: str | None = None,
) -> Isolation:
    """The strongest that works here. `scratch` is a folder of the server's own for the trial."""
    plain = Isolation("none", "ISOLATION=none was asked for.", groups)
    if wanted == "none":
        return plain
    fault = "bubblewrap is not installed"
    if bwrap := shutil.which("bwrap", path=search_path):
        boxed = Isolation("bwrap", "Each process runs in a bubblewrap sandbox.", groups, bwrap)
        fault = await _trial(boxed, cli, scratch, probe_uid)
        if not fault:
            return boxed
    if wanted == "bwrap":
        raise unavailable(
            f"ISOLATION=bwrap cannot be kept: {fault}. Install bubblewrap (apt-get install "
            "bubblewrap), allow namespaces on this machine, or set ISOLATION=auto."
        )
    return replace(plain, reason=f"No sandbox here: {fault}.")


def wrap(isolation: Isolation, box: Box, program: Sequence[str], *, cli: Path) -> Command:
    if isolation.kind == "none":
        return _plain(isolation, box, program)
    if box.uid is None and isolation.server_uid == 0:
        raise ValueError("A server that runs as root gives each box a uid of its own.")
    options = Memfd(tuple(_options(box, isolation, cli)))
    inside = (*_as_user(isolation, box), *gated(box.cwd, tuple(program)))
    return Command(
        argv=(isolation.bwrap, "--args", options, "--", *inside),
        group=isolation.groups.group(box.name) if isolation.groups else None,
        contained=True,
    )


def _plain(isolation: Isolation, box: Box, program: Sequence[str]) -> Command:
    env = {**box.env, "TMPDIR": str(box.tmp)}
    dying = ("/usr/bin/setpriv", "--pdeathsig", "KILL", "--")
    argv = (*dying, *gated(box.cwd, tuple(program)))
    if isolation.groups:
        return Command(argv, env, isolation.groups.group(box.name))
    name, value = "ORCHESTRATOR_BOX", f"{box.name}.{os.urandom(4).hex()}"
    return Command(argv, {**env, name: value}, mark=f"{name}={value}")


def _as_user(isolation: Isolation, box: Box) -> tuple[str, ...]:
    """Root starts bwrap, since the user may not be able to reach the folders that are shown."""
    if box.uid is None:
        return ()
    limited = isolation.groups is not None and isolation.groups.bounds_processes
    limit = ("/usr/bin/prlimit", f"--nproc={PROCESS_LIMIT}:{PROCESS_LIMIT}", "--")
    return (
        *(() if limited else limit),
        *("/usr/bin/setpriv", f"--reuid={box.uid}", f"--regid={box.uid}", "--clear-groups"),
        *("--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--"),
    )


def _options(box: Box, isolation: Isolation, cli: Path) -> Iterator[Argument]:
    yield from (*_NAMESPACES, "--info-fd", Info(), "--cap-drop", "ALL")
    if box.uid is not None:
        yield from (word for name in _TO_CHANGE_USER for word in ("--cap-add", name))
    yield from _system()
    yield from _accounts(box, isolation.server_uid if box.uid is None else box.uid)
    yield from ("--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev")
    yield from ("--perms", "1777", "--tmpfs", "/dev/shm")  # noqa: S108
    yield from _mounts(box, cli)
    yield from ("--remount-ro", "/", "--chdir", "/")
    for name, value in box.env.items():
        yield from ("--setenv", name, value)
    if rules := seccomp.rules(os.uname().machine):
        yield from ("--seccomp", Memfd(rules))


def _system() -> Iterator[str]:
    yield from ("--ro-bind", "/usr", "/usr", "--perms", "0755", "--dir", "/var")
    yield from ("--symlink", "/tmp", "/var/tmp")  # noqa: S108
    for name in _SYSTEM:
        path = Path("/", name)
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        elif path.is_dir():
            yield from ("--ro-bind", str(path), str(path))
    present = [path for name in _ETC if (path := Path("/etc", name)).exists()]
    yield from _parents(present)
    for path in present:
        yield from ("--ro-bind", str(path.resolve()), str(path))


def _accounts(box: Box, uid: int) -> Iterator[Argument]:
    """Names for the user and for the box's own first process; the machine's stay unknown."""
    own = f"{box.username}:x:{uid}:{uid}::{box.home}:/bin/bash\n"
    root = "root:x:0:0::/:/usr/sbin/nologin\n"
    groups = f"root:x:0:\n{box.username}:x:{uid}:\n"
    for path, text in (("/etc/passwd", root + own), ("/etc/group", groups)):
        yield from ("--perms", "0644", "--ro-bind-data", Memfd(text.encode()), path)


def _mounts(box: Box, cli: Path) -> Iterator[str]:
    mounts = (
        Mount(box.tmp, Path("/tmp"), writable=True),  # noqa: S108
        Mount(box.home, box.home, writable=True),
        *box.mounts,
        Mount(cli, CLAUDE),
    )
    for position, mount in enumerate(mounts):
        _refuse_links(mount.target, mounts[:position])
        yield from _parents([mount.target])
        kind = "--bind" if mount.writable else "--ro-bind"
        yield from (kind, str(mount.source), str(mount.target))


def _parents(targets: Iterable[Path]) -> Iterator[str]:
    """bwrap itself would make them for root alone."""
    folders = {parent for target in targets for parent in target.parents} - {Path("/")}
    for folder in sorted(folders):
        yield from ("--perms", "0755", "--dir", str(folder))


def _refuse_links(target: Path, mounts: Sequence[Mount]) -> None:
    """Root's bwrap follows a link that an agent left on the way to a mount point."""
    for mount in mounts:
        if mount.writable and target.is_relative_to(mount.target):
            place = mount.source
            for part in target.relative_to(mount.target).parts:
                place /= part
                if place.is_symlink():
                    raise AppError("forbidden", f"{place} may not be a link.")


async def _trial(isolation: Isolation, cli: Path, scratch: Path, uid: int) -> str:
    """What speaks against this isolation; nothing when the CLI runs in it."""
    as_root = isolation.server_uid == 0
    folder = Path(tempfile.mkdtemp(dir=scratch))
    try:
        for path in (folder / "home", folder / "tmp"):
            path.mkdir(mode=0o700)
            if as_root:
                os.chown(path, uid, uid)
        box = Box(
            name="trial",
            username="trial",
            uid=uid if as_root else None,
            home=folder / "home",
            cwd=folder / "home",
            tmp=folder / "tmp",
            env={"HOME": str(folder / "home"), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        )
        command = wrap(isolation, box, [str(CLAUDE), "--version"], cli=cli)
        ended = await run(command, seconds=PROBE_SECONDS)
    except AppError as error:
        return error.message.rstrip(".")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    said = ended.stderr.strip().rpartition("\n")[2]
    return "" if ended.code == 0 else f"the CLI ended with {ended.code} in the sandbox: {said}"
