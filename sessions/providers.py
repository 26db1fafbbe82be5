"""A model's name → what the CLI must be told to reach it (pure)."""

import re
from collections.abc import Mapping

from errors import invalid

# The CLI passes any string through to the wire, and one that begins with a dash
# would be read as an option of its own.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@\[\]-]{0,127}")


def checked(model: str) -> str:
    if model and not NAME.fullmatch(model):
        raise invalid(
            "A model's name has letters, digits and . _ : / @ [ ] -, and at most 128 of them."
        )
    return model


def is_cloud(model: str) -> bool:
    return model.endswith(":cloud")


def environment(model: str, credential: Mapping[str, str], ollama_base_url: str) -> dict[str, str]:
    if not is_cloud(model):
        return dict(credential)
    return {
        "ANTHROPIC_BASE_URL": ollama_base_url,
        "ANTHROPIC_AUTH_TOKEN": "ollama",
        # With a key beside the token the CLI would send both.
        "ANTHROPIC_API_KEY": "",
        "ANTHROPIC_DEFAULT_OPUS_MODEL": model,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": model,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": model,
        "CLAUDE_CODE_USE_OPENAI": "1",
    }
