"""A user's folders, and paths that may not leave them."""

import os
from dataclasses import dataclass
from pathlib import Path

from errors import invalid


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose files and processes these are."""

    id: str
    username: str
    uid: int


class Workspaces:
    def __init__(self, data_dir: Path) -> None:
        self._users = data_dir / "users"
        self._tmp = data_dir / "tmp"

    def home(self, owner: Owner) -> Path:
        return self._users / owner.username

    def default_folder(self, owner: Owner) -> Path:
        return self.home(owner) / "workspace"

    def prepare(self, owner: Owner) -> None:
        """The home and its workspace, owned by the user's uid when the server is root."""
        for private in (self._users, self._tmp):
            private.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.home(owner), self.default_folder(owner)):
            _make(folder, owner)

    def folder(self, owner: Owner, wanted: str | None) -> Path:
        """The folder that a session works in; relative ones start at the workspace."""
        wanted = wanted or "."
        if "\0" in wanted:
            raise invalid("cwd may not contain a NUL character.")
        home = self.home(owner)
        real, real_home = os.path.realpath(self.default_folder(owner) / wanted), home.resolve()
        if not Path(real).is_relative_to(real_home):
            raise invalid(f"cwd must lie in your home, {home}.")
        if not os.path.isdir(real):  # noqa: PTH112 - it says no where Path raises
            raise invalid(f"cwd must be a folder that exists; {wanted} is none.")
        # As the sandbox shows it, whatever links lead to DATA_DIR.
        return home / Path(real).relative_to(real_home)

    def private_tmp(self, owner: Owner, session_id: str) -> Path:
        folder = self.tmp(session_id)
        _make(folder, owner)
        return folder

    def tmp(self, session_id: str) -> Path:
        return self._tmp / session_id

    def kept_tmp(self) -> set[str]:
        return {entry.name for entry in self._tmp.iterdir()} if self._tmp.is_dir() else set()


def _make(folder: Path, owner: Owner) -> None:
    """What is there already, a link of the user's own making included, is left as it is."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return
    if os.geteuid() == 0:
        os.chown(folder, owner.uid, owner.uid, follow_symlinks=False)
