"""What the CLI says, as values (pure); `protocol` makes them of its lines."""

from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(slots=True)
class Unknown:
    kind: str


@dataclass(slots=True)
class Noise:
    """Known, and of no use here."""


NOISE = Noise()


@dataclass(slots=True)
class Began:
    """The CLI took the prompt up: `system/init`, once a turn."""

    cli_id: str
    model: str
    permission_mode: str


@dataclass(slots=True)
class Working:
    """`system/status`: requesting, compacting, …"""

    detail: str


@dataclass(slots=True)
class MessageStart:
    message_id: str


@dataclass(slots=True)
class MessageStop:
    """The model said all of this message."""


@dataclass(slots=True)
class BlockStart:
    index: int
    kind: str


@dataclass(slots=True)
class Delta:
    index: int
    kind: bytes  # b"text" or b"thinking"
    text: str


@dataclass(slots=True)
class BlockStop:
    index: int


@dataclass(slots=True)
class Said:
    """An `assistant` message: one content block, whole. Its text may have been streamed before."""

    message_id: str
    texts: list[tuple[bytes, str]]
    tools: list[tuple[str, str, Json]]
    parent: str | None
    is_error: bool  # the CLI speaks for itself: its result says the same


@dataclass(slots=True)
class ToolResult:
    tool_id: str
    output: str
    is_error: bool
    parent: str | None


@dataclass(slots=True)
class ToolResults:
    results: list[ToolResult]


@dataclass(slots=True)
class Retry:
    attempt: int
    most: int
    delay_ms: int
    status: int | None


@dataclass(slots=True)
class RateLimit:
    status: str
    kind: str
    resets_at: int | None  # seconds since 1970


@dataclass(slots=True)
class Spent:
    model: str
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cost_usd: float


@dataclass(slots=True)
class Result:
    subtype: str
    is_error: bool
    text: str
    errors: list[str]
    num_turns: int
    duration_ms: int
    usage: Json
    spent: list[Spent]
    terminal_reason: str
    api_status: int | None
    cli_id: str


@dataclass(slots=True)
class Answer:
    """The CLI's reply to a control request of ours."""

    request_id: str
    ok: bool
    body: Json = field(default_factory=dict)
    error: str = ""


@dataclass(slots=True)
class Ask:
    """May I use this tool?"""

    request_id: str
    tool: str
    input: Json
    suggestions: list[Json]


@dataclass(slots=True)
class Request:
    """The CLI wants something that is not done here, and waits for an answer."""

    request_id: str
    subtype: str


@dataclass(slots=True)
class AskWithdrawn:
    request_id: str


Message = (
    Unknown
    | Noise
    | Began
    | Working
    | MessageStart
    | MessageStop
    | BlockStart
    | Delta
    | BlockStop
    | Said
    | ToolResults
    | Retry
    | RateLimit
    | Result
    | Answer
    | Ask
    | Request
    | AskWithdrawn
)
