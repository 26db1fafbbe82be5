"""Settings: read once, checked once, and one sentence when one is wrong."""

import os
import re
from dataclasses import fields
from pathlib import Path

import pytest

import config
from accounts import passwords
from config import Settings, read
from errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
HASH = "$2b$12$" + "a" * 53
KEY = "a-key-of-twenty-characters"
NAMES = {item.name.upper() for item in fields(Settings)}
SECRETS = sorted(item.name.upper() for item in fields(Settings) if item.metadata["secret"])
# Two of one pair can't be set together.
SOUND = {
    "HOST": ("0.0.0.0", "0.0.0.0"),
    "PORT": ("9000", 9000),
    "DATA_DIR": ("/srv/data", Path("/srv/data")),
    "DATABASE_URL": ("postgresql://app:hush-hush@db/name", "postgresql://app:hush-hush@db/name"),
    "ORCHESTRATOR_API_KEY": (KEY, KEY),
    "WEB_AUTH_USERNAME": ("root", "root"),
    "WEB_AUTH_PASSWORD": ("correct horse", "correct horse"),
    "WEB_AUTH_PASSWORD_HASH": (HASH, HASH),
    "ALLOW_QUERY_API_KEY": ("0", False),
    "TELEGRAM_BOT_TOKEN": ("123456:hush-hush", "123456:hush-hush"),
    "CLAUDE_DEFAULT_MODEL": ("sonnet", "sonnet"),
    "ANTHROPIC_API_KEY": ("hush-key", "hush-key"),
    "ANTHROPIC_AUTH_TOKEN": ("hush-token", "hush-token"),
    "ANTHROPIC_BASE_URL": ("https://gateway.example.com/v1/", "https://gateway.example.com/v1"),
    "CLAUDE_CODE_OAUTH_TOKEN": ("hush-oauth", "hush-oauth"),
    "CLAUDE_BIN": ("/usr/bin/claude", "/usr/bin/claude"),
    "OLLAMA_BASE_URL": ("http://[::1]:11434/", "http://[::1]:11434"),
    "ISOLATION": ("none", "none"),
    "DEFAULT_PERMISSION_MODE": ("plan", "plan"),
    "MAX_LIVE_SESSIONS": ("3", 3),
    "SESSION_IDLE_SECONDS": ("60", 60),
    "METRICS_TOKEN": ("hush-metrics", "hush-metrics"),
    "SANDBOX_READONLY": ("/usr/share:/usr/lib:", (Path("/usr/share"), Path("/usr/lib"))),
    "RETENTION_DAYS": ("7", 7),
    "LOG_FORMAT": ("json", "json"),
    "LOG_LEVEL": ("debug", "debug"),
}
DEFAULTS = {
    "HOST": "127.0.0.1",
    "PORT": 8765,
    "WEB_AUTH_USERNAME": "admin",
    "ALLOW_QUERY_API_KEY": True,
    "OLLAMA_BASE_URL": "http://127.0.0.1:11434",
    "ISOLATION": "auto",
    "MAX_LIVE_SESSIONS": 0,  # from memory
    "SESSION_IDLE_SECONDS": 1800,
    "SANDBOX_READONLY": (),
    "RETENTION_DAYS": 90,
    "LOG_FORMAT": "text",
    "LOG_LEVEL": "info",
}
WRONG = [
    *[("PORT", value) for value in ("-1", "65536", "8765.0", "http", "٣", "9" * 5000, "+1", " 1")],
    *[("ALLOW_QUERY_API_KEY", value) for value in ("yes", "true", "2")],
    *[("DATABASE_URL", value) for value in ("mysql://x", "orchestrator.db", "sqlite:x")],
    *[("WEB_AUTH_PASSWORD", value) for value in ("eleven char", "x" * 1025, "x" * 12 + "\udcff")],
    *[("WEB_AUTH_PASSWORD_HASH", value) for value in ("plain", HASH + "a", "$2b$12$", "é" * 60)],
    *[("ANTHROPIC_BASE_URL", value) for value in ("gateway", "ftp://x", "http://", "http://[x")],
    *[("OLLAMA_BASE_URL", value) for value in ("127.0.0.1:11434", "http://h:port", "http://h:0")],
    *[("ISOLATION", value) for value in ("docker", "BWRAP")],
    ("DEFAULT_PERMISSION_MODE", "yolo"),
    *[("MAX_LIVE_SESSIONS", value) for value in ("0", "many")],
    *[("SESSION_IDLE_SECONDS", value) for value in ("0", "1h")],
    *[("RETENTION_DAYS", value) for value in ("0", "36501")],
    *[("SANDBOX_READONLY", value) for value in ("usr/share", "/usr:lib", "/no/such/path")],
    ("LOG_FORMAT", "xml"),
    ("LOG_LEVEL", "loud"),
    ("ORCHESTRATOR_API_KEY", "nineteen-characters"),
    ("DATA_DIR", "~nosuchuser/data"),
    ("TELEGRAM_BOT_TOKEN", "\udcff"),
]


def read_one(name: str, value: str) -> object:
    return getattr(read({name: value}), name.lower())


def test_there_is_an_example_of_every_setting() -> None:
    assert set(SOUND) == NAMES


@pytest.mark.parametrize("name", sorted(SOUND))
def test_it_reads(name: str) -> None:
    value, parsed = SOUND[name]
    assert read_one(name, value) == parsed


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_setting_that_is_absent_or_empty_has_its_default(name: str) -> None:
    expected = Path("data").absolute() if name == "DATA_DIR" else DEFAULTS.get(name, "")
    assert getattr(read({}), name.lower()) == expected
    assert read_one(name, "") == expected


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_it_rejects_with_one_sentence_that_names_the_setting(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read({name: value})
    sentence = str(raised.value)
    assert re.fullmatch(rf"{name} [^\n]+[^.]\.", sentence), sentence
    if name in SECRETS:
        assert value not in sentence


def test_a_password_and_its_hash_are_one_too_many() -> None:
    with pytest.raises(ConfigError, match="WEB_AUTH_PASSWORD and WEB_AUTH_PASSWORD_HASH are both"):
        read({"WEB_AUTH_PASSWORD": "correct horse", "WEB_AUTH_PASSWORD_HASH": HASH})


def test_the_hash_that_is_made_for_it_is_taken() -> None:
    made = passwords.plain_hash("correct horse battery")
    assert read_one("WEB_AUTH_PASSWORD_HASH", made) == made


# Secrets


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_can_stand_in_a_file(name: str, tmp_path: Path) -> None:
    value, parsed = SOUND[name]
    file = tmp_path / "secret"
    file.write_text(f"{value}\r\n")
    assert getattr(read({f"{name}_FILE": str(file)}), name.lower()) == parsed


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_not_given_twice(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} and {name}_FILE are both set; keep one"):
        read({name: SOUND[name][0], f"{name}_FILE": "/dev/null"})


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_secret_file_that_cannot_be_read_is_told(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "secret"
    if content:
        file.write_bytes(content)
    with pytest.raises(
        ConfigError, match=rf"^METRICS_TOKEN_FILE names {file}, which can't be read"
    ):
        read({"METRICS_TOKEN_FILE": str(file)})


def test_a_file_that_names_another_kind_of_setting_is_none_of_ours() -> None:
    assert read({"PORT_FILE": "/no/such/file", "HOST_FILE": "x"}) == read({})


def test_no_secret_is_shown() -> None:
    secret = {name: SOUND[name][0] for name in SECRETS if name != "WEB_AUTH_PASSWORD_HASH"}
    for settings in (read(secret), read({"WEB_AUTH_PASSWORD_HASH": HASH})):
        shown = f"{settings!r} {settings}"
        assert [value for value in (*secret.values(), HASH) if value in shown] == []
        assert "port=8765" in shown


def test_what_carries_a_secret_is_known_as_one() -> None:
    telling = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|DATABASE_URL")
    assert {name for name in NAMES if telling.search(name)} - {"ALLOW_QUERY_API_KEY"} == set(
        SECRETS
    )


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        read({}).port = 1  # type: ignore[misc]


# Combinations and what follows from them


def test_the_database_is_in_the_data_folder_unless_it_is_named() -> None:
    settings = read({"DATA_DIR": "/srv/data"})
    assert settings.database == "sqlite:////srv/data/orchestrator.db"
    assert settings.uses_sqlite
    assert settings.service_home == Path("/srv/data/service")
    elsewhere = read({"DATABASE_URL": "postgres://app@db/name"})
    assert elsewhere.database == "postgresql://app@db/name"
    assert not elsewhere.uses_sqlite


def test_a_data_folder_may_be_relative_or_in_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/srv/somebody")
    assert read_one("DATA_DIR", "~/data") == Path("/srv/somebody/data")
    monkeypatch.chdir("/srv")
    assert read_one("DATA_DIR", "x/data") == Path("/srv/x/data")
    assert read({}).data_dir == Path("/srv/data")


@pytest.mark.parametrize("shown", ["data", "data/users", ".", "link"])
def test_agents_are_not_shown_the_data_folder(tmp_path: Path, shown: str) -> None:
    (tmp_path / "data/users").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    given = {"DATA_DIR": str(tmp_path / "data"), "SANDBOX_READONLY": str(tmp_path / shown)}
    with pytest.raises(ConfigError, match=r"SANDBOX_READONLY names .* would show agents DATA_DIR"):
        read(given)


def test_the_default_credential_is_what_was_given() -> None:
    assert read({}).default_credential == {}
    given = {"ANTHROPIC_API_KEY": "a", "ANTHROPIC_BASE_URL": "http://b"}
    assert read({**given, "PORT": "1"}).default_credential == given


# .env


@pytest.fixture
def dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.removesuffix("_FILE") in NAMES]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path / ".env"


@pytest.mark.parametrize(
    ("line", "token"),
    [
        ("METRICS_TOKEN=plain", "plain"),
        ("METRICS_TOKEN = spaced out ", "spaced out"),
        ("export METRICS_TOKEN=exported", "exported"),
        ("  export  METRICS_TOKEN=indented", "indented"),
        ('METRICS_TOKEN="double # quoted"', "double # quoted"),
        ("METRICS_TOKEN='single $2b$12$x'", "single $2b$12$x"),
        ('METRICS_TOKEN="quoted"  # and a remark', "quoted"),
        ("METRICS_TOKEN=plain # and a remark", "plain"),
        ("METRICS_TOKEN=a#b=c", "a#b=c"),
        ("METRICS_TOKEN=", ""),
        ('METRICS_TOKEN=""', ""),
        ("#METRICS_TOKEN=remark", ""),
        ("  # METRICS_TOKEN=remark", ""),
        ("METRICS_TOKEN", ""),
        ('METRICS_TOKEN="half', '"half'),
        ("METRICS_TOKEN=ünï", "ünï"),
    ],
)
def test_a_line_of_dotenv(dotenv: Path, line: str, token: str) -> None:
    dotenv.write_text(f"\n{line}\r\nPORT=9000\n")
    settings = config.from_environment()
    assert (settings.metrics_token, settings.port) == (token, 9000)


def test_the_environment_is_stronger_than_dotenv(
    dotenv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dotenv.write_text("PORT=9000\nHOST=0.0.0.0\n")
    monkeypatch.setenv("PORT", "9001")
    settings = config.from_environment()
    assert (settings.port, settings.host) == (9001, "0.0.0.0")


def test_without_dotenv_there_are_defaults(dotenv: Path) -> None:
    assert config.from_environment() == read({})


def test_a_dotenv_that_cannot_be_read_is_told(dotenv: Path) -> None:
    dotenv.write_bytes(b"PORT=\xff")
    with pytest.raises(ConfigError, match=rf"^{dotenv} can't be read: .*utf-8"):
        config.from_environment()
    dotenv.unlink()
    dotenv.mkdir()
    with pytest.raises(ConfigError, match=rf"^{dotenv} can't be read: .*directory"):
        config.from_environment()


# Programs and proxies


def test_a_cli_is_named_by_path_or_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = tmp_path / "my-claude"
    cli.touch(mode=0o755)
    assert config.find_claude(read({"CLAUDE_BIN": str(cli)})) == cli
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert config.find_claude(read({"CLAUDE_BIN": "my-claude"})) == cli


@pytest.mark.parametrize("name", ["/no/such/claude", "no-such-claude", "/etc/passwd"])
def test_a_cli_that_is_none_is_told(name: str) -> None:
    with pytest.raises(ConfigError, match=f"CLAUDE_BIN names {name}, which is no program"):
        config.find_claude(read({"CLAUDE_BIN": name}))


def test_a_machine_without_a_cli_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"no claude CLI here: .*CLAUDE_BIN"):
        config.find_claude(read({}))
    (tmp_path / "claude").touch(mode=0o755)
    assert config.find_claude(read({})) == tmp_path / "claude"


def test_an_agent_hears_of_the_proxy_and_of_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if "proxy" in name.lower()]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "internal")
    given = {"HTTPS_PROXY": "http://proxy:3128", "no_proxy": "internal"}
    assert config.proxy_environment() == given


# The lists that people read


def listed(pattern: str, text: str) -> set[str]:
    return {name for line in text.splitlines() for name in re.findall(pattern, line)}


def test_the_readme_lists_every_setting_and_no_other() -> None:
    rows = (ROOT / "README.md").read_text().splitlines()
    first = "\n".join(row.split("|")[1] for row in rows if re.match(r"\| `[A-Z][A-Z_]+`", row))
    assert listed(r"`([A-Z][A-Z_]+)`", first) == NAMES


def test_the_example_lists_every_setting_and_no_other() -> None:
    example = (ROOT / ".env.example").read_text()
    assert listed(r"^#?\s*(?:export )?([A-Z][A-Z_]+)=", example) == NAMES


def test_the_example_without_its_marks_is_sound(dotenv: Path) -> None:
    """Everything in it, but for one of the two that exclude each other and what is not here."""
    lines = [
        line.removeprefix("#")
        for line in (ROOT / ".env.example").read_text().splitlines()
        if re.match(r"#[A-Z_]+=", line) and not re.match("#(WEB_AUTH_PASSWORD_HASH|SANDBOX_)", line)
    ]
    dotenv.write_text("\n".join(lines))
    settings = config.from_environment()
    assert settings.data_dir == dotenv.parent / "data"
    assert settings.port == 8765
