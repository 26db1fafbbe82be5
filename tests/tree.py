"""The files of this repository, as a commit would take them."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOT_OURS = {".git", ".venv", "node_modules", "data", "__pycache__"}


def files() -> list[Path]:
    """Tracked and new files, relative to the root; without git, all but what a set-up makes."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    names = listed.stdout.split("\0") if listed.returncode == 0 else _walk(ROOT)
    paths = {Path(name) for name in names if name}
    return sorted(path for path in paths if (ROOT / path).is_file())


def _walk(folder: Path) -> Iterator[str]:
    for path in folder.iterdir():
        if path.name in NOT_OURS or path.name.endswith("_cache"):
            continue
        if path.is_dir():
            yield from _walk(path)
        else:
            yield str(path.relative_to(ROOT))
