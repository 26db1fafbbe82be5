"""Lines that the real CLI wrote, one of each kind (see lines.jsonl)."""

from pathlib import Path
from typing import Any

import orjson

RECORDED: dict[str, dict[str, Any]] = {
    entry["kind"]: entry["line"]
    for entry in map(
        orjson.loads, Path(__file__).with_name("lines.jsonl").read_bytes().splitlines()
    )
}
