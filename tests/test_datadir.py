"""DATA_DIR: private, one server at a time, and the key that it keeps."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

import datadir
from errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
HOLD = """
import sys, datadir, pathlib
lock = datadir.open_alone(pathlib.Path(sys.argv[1]), alone=True)
print("held", flush=True)
sys.stdin.read()
"""


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def test_it_is_for_the_server_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        lock = datadir.open_alone(tmp_path / "deep/data", alone=True)
        datadir.api_key(tmp_path / "deep/data")
    finally:
        os.umask(before)
    assert mode(tmp_path / "deep/data") == 0o700
    assert mode(tmp_path / "deep/data/api-key") == 0o600
    await lock.release()


async def test_a_folder_that_all_could_read_is_closed_to_them(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    lock = datadir.open_alone(tmp_path, alone=False)
    assert mode(tmp_path) == 0o700
    await lock.release()


async def test_a_second_server_is_refused_until_the_first_has_gone(tmp_path: Path) -> None:
    first = datadir.open_alone(tmp_path, alone=True)
    assert datadir.take_lock(tmp_path, alone=True) is None
    with pytest.raises(ConfigError) as raised:
        datadir.open_alone(tmp_path, alone=True)
    assert str(raised.value) == (
        f"Another server is using DATA_DIR {tmp_path}; stop it, or choose another DATA_DIR."
    )
    await first.release()
    await datadir.open_alone(tmp_path, alone=True).release()


async def test_servers_that_share_a_database_share_a_folder(tmp_path: Path) -> None:
    for lock in [datadir.open_alone(tmp_path, alone=False) for _ in range(2)]:
        await lock.release()


async def test_a_kill_lets_the_lock_go(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout
        process.stdout.readline()
        assert datadir.take_lock(tmp_path, alone=True) is None
        process.kill()
    await datadir.open_alone(tmp_path, alone=True).release()


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/data"):
        with pytest.raises(ConfigError, match=rf"DATA_DIR {folder} can't be used: ."):
            datadir.open_alone(folder, alone=True)
    (tmp_path / "data/lock").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"can't be used: Is a directory\."):
        datadir.open_alone(tmp_path / "data", alone=True)


def test_the_key_is_made_once_and_kept(tmp_path: Path) -> None:
    key = datadir.api_key(tmp_path)
    assert len(key) > 40
    assert datadir.api_key(tmp_path) == key
    assert [path.name for path in tmp_path.iterdir()] == ["api-key"]


def test_a_key_of_the_operators_own_is_taken(tmp_path: Path) -> None:
    (tmp_path / "api-key").write_text("  their-own-key-of-some-length \n")
    assert datadir.api_key(tmp_path) == "their-own-key-of-some-length"


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "is empty; delete it"), (b"\xff", "can't be")]
)
def test_a_key_that_is_none_is_told(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "api-key").write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        datadir.api_key(tmp_path)


def test_a_key_file_that_is_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "api-key").mkdir()
    with pytest.raises(ConfigError, match=r"can't be used: .*Is a directory"):
        datadir.api_key(tmp_path)


def test_many_starts_at_once_agree_on_one_key(tmp_path: Path) -> None:
    together = Barrier(8)

    def start(number: int) -> str:
        folder = tmp_path / str(number // 8)
        together.wait(10)
        folder.mkdir(exist_ok=True)
        return datadir.api_key(folder)

    with ThreadPoolExecutor(8) as starts:
        keys = list(starts.map(start, range(160)))
    for first in range(0, 160, 8):
        assert len(set(keys[first : first + 8])) == 1
    assert len(set(keys)) == 20


def test_a_label_tells_folders_apart_without_naming_them(tmp_path: Path) -> None:
    one, other = datadir.label(tmp_path / "one"), datadir.label(tmp_path / "other")
    assert one != other
    assert one == datadir.label(tmp_path / "one")
    assert tmp_path.name not in one
