"""`make demo`: the whole system against a model that only echoes. No account is needed."""

import asyncio
import dataclasses
import sys
import tempfile
from pathlib import Path

import commands
import config
from errors import AppError, ConfigError
from logs import set_up_logging
from main import App
from tests.fakes.model import FakeModel

HINT = """
A fake model on this machine answers; everything else is real. In another terminal:

  H="X-API-Key: $(cat {key})"
  ID=$(curl -s -H "$H" -H "X-User: {user}" -d '{{}}' {url}/sessions | cut -d'"' -f4)
  curl -sN -H "$H" -H "X-User: {user}" -d '{{"prompt": "help"}}' {url}/sessions/$ID/query
  curl -sN -H "$H" -H "X-User: {user}" -d '{{"prompt": "run whoami"}}' {url}/sessions/$ID/query
"""


async def demonstrate(folder: Path) -> None:
    async with FakeModel() as model:
        settings = dataclasses.replace(
            config.from_environment(),
            data_dir=folder,
            database_url="",
            orchestrator_api_key="",
            anthropic_api_key="no-key-is-needed-here",
            anthropic_auth_token="",
            anthropic_base_url=model.url,
            claude_code_oauth_token="",
        )
        set_up_logging(settings.log_format, settings.log_level)
        await commands.run(settings, _hint)


def _hint(app: App) -> str:
    key, user = app.settings.data_dir / "api-key", app.settings.web_auth_username
    return commands.welcome(app) + "\n" + HINT.format(key=key, user=user, url=app.url)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="claude-orchestrator-demo-") as folder:
        try:
            asyncio.run(demonstrate(Path(folder)))
        except (AppError, ConfigError) as error:
            print(f"claude-orchestrator: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
