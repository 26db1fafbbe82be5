"""A user's folders: paths may not leave them, and links there are the user's own affair."""

import os
from pathlib import Path

import pytest

from errors import AppError
from sessions.workspace import Owner, Workspaces

AS_ROOT = os.geteuid() == 0
ANN = Owner(id="1", username="ann", uid=23_001)
BOB = Owner(id="2", username="bob", uid=23_002)


@pytest.fixture
def spaces(tmp_path: Path) -> Workspaces:
    spaces = Workspaces(tmp_path / "data")
    for owner in (ANN, BOB):
        spaces.prepare(owner)
    return spaces


def home(spaces: Workspaces) -> Path:
    return spaces.home(ANN)


def refusal(spaces: Workspaces, wanted: str | None) -> str:
    with pytest.raises(AppError) as raised:
        spaces.folder(ANN, wanted)
    assert raised.value.code == "invalid"
    return raised.value.message


def owned_by(path: Path) -> int:
    return path.lstat().st_uid


# Where a session works


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (None, "workspace"),
        ("", "workspace"),
        (".", "workspace"),
        ("..", "."),
        ("project", "workspace/project"),
        ("project/../project/", "workspace/project"),
        ("../notes", "notes"),
        ("{home}", "."),
        ("{home}/workspace/project", "workspace/project"),
        ("{home}/notes/../workspace", "workspace"),
        ("ünï \U0001f469", "workspace/ünï \U0001f469"),
        ("inside", "notes"),
        ("inside/deep", "notes/deep"),
    ],
)
def test_a_folder_of_the_users_own_is_found(
    spaces: Workspaces, wanted: str | None, found: str
) -> None:
    for folder in ("workspace/project", "notes/deep", "workspace/ünï \U0001f469"):
        (home(spaces) / folder).mkdir(parents=True)
    (home(spaces) / "workspace/inside").symlink_to("../notes")
    asked = wanted.format(home=home(spaces)) if wanted else wanted
    assert spaces.folder(ANN, asked) == home(spaces) / found


@pytest.mark.parametrize(
    "wanted",
    [
        *("/", "/etc", "../..", "../../bob", "../../bob/workspace", "../../../users"),
        *("{home}/../bob", "{home}2", "{home}/..", "project/../../../bob", "~", "/proc/self/cwd"),
        *("link", "link/inside", "loop", "dangling"),
    ],
)
def test_what_is_not_in_the_home_is_refused(spaces: Workspaces, wanted: str) -> None:
    work = home(spaces) / "workspace"
    (work / "project").mkdir()
    (home(spaces).parent / "ann2").mkdir()
    (spaces.home(BOB) / "inside").mkdir()
    (work / "link").symlink_to(spaces.home(BOB))
    (work / "loop").symlink_to("loop")
    (work / "dangling").symlink_to("/no/such/folder")
    said = refusal(spaces, wanted.format(home=home(spaces)))
    # One that is in the home and none at all says so; no word tells what there is outside.
    inside = wanted in ("~", "loop")
    assert said.startswith("cwd must be a folder" if inside else "cwd must lie in your home")
    assert "bob" not in said


@pytest.mark.parametrize(
    "wanted", ["missing", "file", "file/deeper", "pipe", "x" * 300, "x/" * 3000, "\udcff"]
)
def test_what_is_no_folder_is_refused(spaces: Workspaces, wanted: str) -> None:
    work = home(spaces) / "workspace"
    (work / "file").touch()
    os.mkfifo(work / "pipe")
    assert refusal(spaces, wanted).startswith("cwd must be a folder that exists")


def test_a_nul_is_refused(spaces: Workspaces) -> None:
    assert refusal(spaces, "a\0b") == "cwd may not contain a NUL character."


def test_a_workspace_that_became_a_link_leads_nowhere_else(spaces: Workspaces) -> None:
    work = home(spaces) / "workspace"
    work.rmdir()
    work.symlink_to("/etc")
    spaces.prepare(ANN)
    for wanted in (None, ".", "ssl"):
        assert refusal(spaces, wanted).startswith("cwd must lie in your home")
    work.unlink()
    work.symlink_to("gone")
    spaces.prepare(ANN)
    assert refusal(spaces, None).startswith("cwd must be a folder that exists")


def test_a_data_folder_behind_a_link_is_shown_as_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to("disk")
    spaces = Workspaces(tmp_path / "data")
    spaces.prepare(ANN)
    # The sandbox has the home where its name says.
    assert spaces.folder(ANN, None) == tmp_path / "data/users/ann/workspace"
    assert spaces.folder(ANN, str(tmp_path / "disk/users/ann")) == tmp_path / "data/users/ann"


# Folders that are made


def test_homes_are_private_and_their_users_own(spaces: Workspaces, tmp_path: Path) -> None:
    expected = ANN.uid if AS_ROOT else os.getuid()
    for folder in (home(spaces), home(spaces) / "workspace"):
        assert folder.stat().st_mode & 0o777 == 0o700
        assert owned_by(folder) == expected
    for private in ("users", "tmp"):
        assert (tmp_path / "data" / private).stat().st_mode & 0o777 == 0o700
        assert owned_by(tmp_path / "data" / private) == os.getuid()


def test_preparing_again_changes_nothing(spaces: Workspaces) -> None:
    (home(spaces) / "workspace/file").write_text("kept")
    home(spaces).chmod(0o750)
    spaces.prepare(ANN)
    assert (home(spaces) / "workspace/file").read_text() == "kept"
    assert home(spaces).stat().st_mode & 0o777 == 0o750


def test_a_workspace_that_is_gone_is_made_anew(spaces: Workspaces) -> None:
    (home(spaces) / "workspace").rmdir()
    spaces.prepare(ANN)
    assert owned_by(home(spaces) / "workspace") == (ANN.uid if AS_ROOT else os.getuid())


@pytest.mark.parametrize("target", ["outside", "gone"])
def test_a_link_of_the_users_own_making_is_neither_followed_nor_given_away(
    spaces: Workspaces, tmp_path: Path, target: str
) -> None:
    (tmp_path / "outside").mkdir(mode=0o755)
    work = home(spaces) / "workspace"
    work.rmdir()
    work.symlink_to(tmp_path / target)
    spaces.prepare(ANN)
    assert work.readlink() == tmp_path / target
    assert owned_by(tmp_path / "outside") == os.getuid()
    assert (tmp_path / "outside").stat().st_mode & 0o777 == 0o755
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_something_else_in_the_place_of_the_workspace_is_left_alone(
    spaces: Workspaces, kind: str
) -> None:
    work = home(spaces) / "workspace"
    work.rmdir()
    work.touch() if kind == "file" else os.mkfifo(work)
    spaces.prepare(ANN)
    assert not work.is_dir()
    assert refusal(spaces, None).startswith("cwd must be a folder that exists")


# A session's own /tmp


def test_a_sessions_tmp_is_its_users_alone(spaces: Workspaces, tmp_path: Path) -> None:
    folder = spaces.private_tmp(ANN, "session-1")
    assert folder.parent == tmp_path / "data/tmp"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert owned_by(folder) == (ANN.uid if AS_ROOT else os.getuid())
    assert spaces.private_tmp(ANN, "session-1") == folder
    assert spaces.kept_tmp() == {"session-1"}
    assert spaces.tmp("session-1") == folder


def test_before_anybody_came_there_is_no_tmp(tmp_path: Path) -> None:
    assert Workspaces(tmp_path / "data").kept_tmp() == set()
