"""Every setting: read once from the environment, checked once, frozen, passed in."""

import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from errors import ConfigError

VERSION = "0.1.0"
ROOT = Path(__file__).resolve().parent

IsolationChoice = Literal["auto", "bwrap", "none"]
PermissionMode = Literal["default", "acceptEdits", "bypassPermissions", "plan", "dontAsk"]
LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

PERMISSION_MODES: tuple[str, ...] = get_args(PermissionMode)
SHORTEST_PASSWORD = 12
QUOTED = re.compile(r"""(["'])(.*?)\1(\s+#.*)?""")
EXPORT = re.compile(r"^\s*export\s+")


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must be text in UTF-8") from None
    return value


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        number = int(value) if re.fullmatch("[0-9]{1,9}", value) else -1
        if not least <= number <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return number

    return parse


def _switch(value: str) -> bool:
    if value not in ("0", "1"):
        raise ValueError("must be 0 or 1")
    return value == "1"


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in choices:
            raise ValueError("must be one of " + ", ".join(choices))
        return value

    return parse


def _path(value: str) -> Path:
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError:
        raise ValueError("begins with ~, and whose home that is can't be told") from None


def _paths(value: str) -> tuple[Path, ...]:
    paths = tuple(Path(part) for part in value.split(":") if part)
    if any(not path.is_absolute() for path in paths):
        raise ValueError("must be absolute paths with colons between them")
    return paths


def _web_address(value: str) -> str:
    try:
        parts = urlsplit(_text(value))
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise ValueError("must be an address such as http://127.0.0.1:11434")
    return value.rstrip("/")


def checked_password(value: str) -> str:
    if not SHORTEST_PASSWORD <= len(value) <= 1024:
        raise ValueError(f"must have from {SHORTEST_PASSWORD} to 1024 characters")
    return _text(value)


def _bcrypt_hash(value: str) -> str:
    if not re.fullmatch(r"\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}", value):
        raise ValueError("must be a bcrypt hash; `python -m main hash-password` makes one")
    return value


def _database(value: str) -> str:
    if value.startswith("postgres://"):
        value = value.replace("postgres://", "postgresql://", 1)
    if not value.startswith(("sqlite:///", "postgresql://")):
        raise ValueError("must begin with sqlite:/// or postgresql://")
    return value


def _setting(parse: Callable[[str], Any], default: Any, *, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"parse": parse, "secret": secret})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One field a setting; its name in the environment is the field's in capitals."""

    host: str = _setting(_text, "127.0.0.1")
    port: int = _setting(_whole(0, 65535), 8765)
    data_dir: Path = _setting(_path, Path("data"))
    database_url: str = _setting(_database, "", secret=True)
    orchestrator_api_key: str = _setting(_text, "", secret=True)
    web_auth_username: str = _setting(_text, "admin")
    web_auth_password: str = _setting(checked_password, "", secret=True)
    web_auth_password_hash: str = _setting(_bcrypt_hash, "", secret=True)
    allow_query_api_key: bool = _setting(_switch, True)
    telegram_bot_token: str = _setting(_text, "", secret=True)
    claude_default_model: str = _setting(_text, "")
    anthropic_api_key: str = _setting(_text, "", secret=True)
    anthropic_auth_token: str = _setting(_text, "", secret=True)
    anthropic_base_url: str = _setting(_web_address, "")
    claude_code_oauth_token: str = _setting(_text, "", secret=True)
    claude_bin: str = _setting(_text, "")
    ollama_base_url: str = _setting(_web_address, "http://127.0.0.1:11434")
    isolation: IsolationChoice = _setting(_one_of(*get_args(IsolationChoice)), "auto")
    default_permission_mode: str = _setting(_one_of(*PERMISSION_MODES), "")
    max_live_sessions: int = _setting(_whole(1, 1000), 0)
    session_idle_seconds: int = _setting(_whole(1, 604800), 1800)
    metrics_token: str = _setting(_text, "", secret=True)
    sandbox_readonly: tuple[Path, ...] = _setting(_paths, ())
    retention_days: int = _setting(_whole(1, 36500), 90)
    log_format: LogFormat = _setting(_one_of(*get_args(LogFormat)), "text")
    log_level: LogLevel = _setting(_one_of(*get_args(LogLevel)), "info")

    @property
    def uses_sqlite(self) -> bool:
        return self.database.startswith("sqlite:")

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'orchestrator.db'}"

    @property
    def service_home(self) -> Path:
        return self.data_dir / "service"

    @property
    def default_credential(self) -> dict[str, str]:
        """What an agent gets whose user has no login of their own."""
        given = {
            "ANTHROPIC_API_KEY": self.anthropic_api_key,
            "ANTHROPIC_AUTH_TOKEN": self.anthropic_auth_token,
            "ANTHROPIC_BASE_URL": self.anthropic_base_url,
            "CLAUDE_CODE_OAUTH_TOKEN": self.claude_code_oauth_token,
        }
        return {name: value for name, value in given.items() if value}


def read(environ: Mapping[str, str]) -> Settings:
    values: dict[str, Any] = {"data_dir": Path("data").absolute()}
    for item in fields(Settings):
        name = item.name.upper()
        given = _given(environ, name, secret=item.metadata["secret"])
        if given:
            values[item.name] = _parsed(name, item.metadata["parse"], given)
    settings = Settings(**values)
    _check_combinations(settings)
    return settings


def from_environment() -> Settings:
    return read({**_dotenv(Path(".env")), **os.environ})


def find_claude(settings: Settings) -> Path:
    """The CLI that CLAUDE_BIN names, else the pinned one of the set-up, else the one on PATH."""
    if settings.claude_bin:
        return _named_claude(settings.claude_bin)
    pinned = ROOT / "node_modules" / ".bin" / "claude"
    found = str(pinned) if pinned.exists() else shutil.which("claude")
    if not found:
        raise ConfigError(
            "There is no claude CLI here: install npm and run `make run` again, "
            "or name one with CLAUDE_BIN."
        )
    return Path(found).resolve()


def proxy_environment() -> dict[str, str]:
    """What an agent needs of us to reach the internet through the operator's proxy."""
    names = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "NO_PROXY", "no_proxy")
    return {name: os.environ[name] for name in names if name in os.environ}


def _named_claude(name: str) -> Path:
    found = shutil.which(name)
    if not found:
        raise ConfigError(f"CLAUDE_BIN names {name}, which is no program; name the claude CLI.")
    return Path(found).resolve()


def _given(environ: Mapping[str, str], name: str, *, secret: bool) -> str:
    value, file = environ.get(name, ""), environ.get(f"{name}_FILE", "") if secret else ""
    if value and file:
        raise ConfigError(f"{name} and {name}_FILE are both set; keep one of them.")
    return _secret_file(name, file) if file else value


def _secret_file(name: str, file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}_FILE names {file}, which can't be read: {error}.") from error


def _parsed(name: str, parse: Callable[[str], Any], value: str) -> Any:
    try:
        return parse(value)
    except ValueError as error:
        raise ConfigError(f"{name} {error}.") from None


def _check_combinations(settings: Settings) -> None:
    if settings.web_auth_password and settings.web_auth_password_hash:
        raise ConfigError(
            "WEB_AUTH_PASSWORD and WEB_AUTH_PASSWORD_HASH are both set; keep one of them."
        )
    if settings.orchestrator_api_key and len(settings.orchestrator_api_key) < 20:
        raise ConfigError("ORCHESTRATOR_API_KEY must have at least 20 characters.")
    for path in settings.sandbox_readonly:
        _check_readonly(path.resolve(), settings.data_dir.resolve())


def _check_readonly(path: Path, data_dir: Path) -> None:
    if not path.exists():
        raise ConfigError(f"SANDBOX_READONLY names {path}, which does not exist.")
    if data_dir.is_relative_to(path) or path.is_relative_to(data_dir):
        raise ConfigError(f"SANDBOX_READONLY names {path}, which would show agents DATA_DIR.")


def _dotenv(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.absolute()} can't be read: {error}.") from error
    pairs = (EXPORT.sub("", line).partition("=") for line in lines if _assigns(line))
    return {name.strip(): _unquoted(value.strip()) for name, _, value in pairs}


def _assigns(line: str) -> bool:
    return "=" in line and not line.lstrip().startswith("#")


def _unquoted(value: str) -> str:
    """A remark may follow, after a blank and a #; between quotes a # is part of the value."""
    if quoted := QUOTED.fullmatch(value):
        return quoted[2]
    return value.partition(" #")[0].rstrip()
