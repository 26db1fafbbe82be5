"""What the CLI sent, and which of it belongs to the conversation a test has scripted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

SLIPPED_IN = ("<system-reminder>", "[Image: source: ")
SUMMARY_PROMPT = "Your task is to create a detailed summary"


@dataclass(frozen=True)
class Request:
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def model(self) -> str:
        return str(self.body.get("model", ""))

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def authorization(self) -> str:
        """The bearer header, or the API key when there is none."""
        return self.headers.get("Authorization") or self.headers.get("x-api-key", "")

    @property
    def system(self) -> str:
        return "\n".join(texts(self.body.get("system", "")))

    @property
    def tools(self) -> list[str]:
        return [str(tool["name"]) for tool in self.body.get("tools", ())]

    @property
    def history(self) -> list[tuple[str, str]]:
        """(role, text) of every message of the two that has a text of its own."""
        said = ((m["role"], "\n".join(texts(m["content"]))) for m in self._messages())
        return [(role, text) for role, text in said if text and role != "system"]

    @property
    def last_text(self) -> str:
        """What the user last wrote, however many tool results have come since.

        The last block only: a prompt that got no answer is sent again before the next one.
        """
        users = [texts(m["content"]) for m in self._messages() if m["role"] == "user"]
        return next((said[-1] for said in reversed(users) if said), "")

    @property
    def place(self) -> tuple[str, str]:
        """Where this request stands: the same for every attempt at the same step of a turn."""
        said = repr((self.history, self.tool_result))
        return self.headers.get("X-Claude-Code-Session-Id", ""), said

    @property
    def tool_result(self) -> str | None:
        """The result this request brings back, when it is the second half of a tool use."""
        users = [m for m in self._messages() if m["role"] == "user"]
        blocks = users[-1]["content"] if users else ""
        results = [b for b in blocks if isinstance(b, dict) and b.get("type") == "tool_result"]
        return "\n".join("\n".join(texts(b.get("content", ""))) for b in results) or (
            "" if results else None
        )

    @property
    def is_summary(self) -> bool:
        return SUMMARY_PROMPT in self.last_text

    @property
    def is_side(self) -> bool:
        """Titles, model checks and summaries: the CLI's own errands, not the conversation."""
        thinks = self.body.get("thinking", {}).get("type", "disabled") != "disabled"
        return self.is_summary or not (self.body.get("tools") or thinks)

    def _messages(self) -> Iterator[dict[str, Any]]:
        yield from self.body.get("messages", ())


def texts(content: Any) -> list[str]:
    """The texts of a content, without what the CLI slips in on its own account."""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    found = (block["text"] for block in content if block.get("type") == "text")
    return [text for text in found if not text.lstrip().startswith(SLIPPED_IN)]
