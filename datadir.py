"""DATA_DIR: who may open it, one server at a time, and the secrets that it keeps."""

import fcntl
import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from errors import ConfigError


@dataclass(frozen=True, slots=True)
class Lock:
    file: IO[str] | None

    async def release(self) -> None:
        if self.file:
            self.file.close()


def open_alone(folder: Path, *, alone: bool) -> Lock:
    """For the server itself; alone, a second one is kept out with a sentence."""
    lock = take_lock(folder, alone=alone)
    if lock is None:
        raise ConfigError(
            f"Another server is using DATA_DIR {folder}; stop it, or choose another DATA_DIR."
        )
    return lock


def take_lock(folder: Path, *, alone: bool) -> Lock | None:
    """None while a server holds it; a server's end, however sudden, lets it go."""
    _make_private(folder)
    if not alone:
        return Lock(None)
    try:
        file = (folder / "lock").open("a")
    except OSError as error:
        raise _unusable(folder, error) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return Lock(file)


def api_key(folder: Path) -> str:
    """The root key: made at the first start, then kept."""
    path = folder / "api-key"
    try:
        if not path.exists():
            _keep(path, secrets.token_urlsafe(32))
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be used: {error}.") from error
    if not key:
        raise ConfigError(f"{path} is empty; delete it, and a new key is made at the next start.")
    return key


def label(folder: Path) -> str:
    """Tells this folder's server from others on the machine."""
    return "claude-orchestrator-" + hashlib.sha256(str(folder).encode()).hexdigest()[:12]


def _keep(path: Path, secret: str) -> None:
    """The file is whole from its first moment; of two starts at once, one has made it."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
        _link(path, draft)
    finally:
        draft.unlink(missing_ok=True)


def _link(path: Path, draft: Path) -> None:
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    except OSError:
        draft.replace(path)  # a file system that has no links


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise _unusable(folder, error) from error


def _unusable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(f"DATA_DIR {folder} can't be used: {error.strerror}.")
