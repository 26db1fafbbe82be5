"""A Messages API on loopback: the real CLI talks to it through ANTHROPIC_BASE_URL."""

from .replies import (
    Reply,
    big,
    both,
    cut,
    from_json,
    hang,
    status,
    subscription_limit,
    text,
    thinking,
    tool,
)
from .requests import Request
from .server import FakeModel

__all__ = [
    "FakeModel",
    "Reply",
    "Request",
    "big",
    "both",
    "cut",
    "from_json",
    "hang",
    "status",
    "subscription_limit",
    "text",
    "thinking",
    "tool",
]
