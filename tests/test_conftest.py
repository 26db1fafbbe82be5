"""The promises that the shared fixtures and hooks make to every other test."""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import psycopg
import pytest
from playhouse.db_url import connect

ROOT = Path(__file__).resolve().parent.parent

SKIPS = {
    "by mark": "@pytest.mark.skip(reason='no such program')\ndef test_it(): pass",
    "in the test": "def test_it(): pytest.skip('no such program')",
    "in a fixture": """
        @pytest.fixture
        def program(): pytest.skip('no such program')
        def test_it(program): pass
    """,
    "of a whole file": "pytest.skip('no such program', allow_module_level=True)",
    "by xfail": "def test_it(): pytest.xfail('no such program')",
}


def run_pytest(folder: Path, source: str, ci: str) -> subprocess.CompletedProcess[str]:
    file = folder / "test_one.py"
    file.write_text("import pytest\n" + dedent(source))
    options = ["-p", "tests.conftest", "-c", os.devnull, "-W", "ignore"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(file)],
        cwd=ROOT,
        env=os.environ | {"CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("ci", ["1", "true"])
@pytest.mark.parametrize("source", SKIPS.values(), ids=SKIPS.keys())
def test_a_skip_fails_in_ci_and_says_why(tmp_path: Path, source: str, ci: str) -> None:
    ran = run_pytest(tmp_path, source, ci)
    assert ran.returncode != 0
    assert "CI runs every test" in ran.stdout
    assert "no such program" in ran.stdout


@pytest.mark.parametrize("source", SKIPS.values(), ids=SKIPS.keys())
def test_a_skip_is_no_failure_on_a_developers_machine(tmp_path: Path, source: str) -> None:
    ran = run_pytest(tmp_path, source, ci="")
    assert "CI runs every test" not in ran.stdout
    assert "1 skipped" in ran.stdout or "1 xfailed" in ran.stdout


def test_each_test_gets_a_database_of_its_own(database_url: str) -> None:
    with connect(database_url) as database:
        assert database.get_tables() == []
        database.execute_sql("CREATE TABLE left_behind (id INTEGER)")


test_no_table_is_left_by_the_test_before = test_each_test_gets_a_database_of_its_own


def test_postgresql_refuses_a_wrong_password(postgres_url: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(postgres_url.replace("app:", "app:x"))
