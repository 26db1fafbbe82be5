"""What the model says when nobody scripted it: enough to try every face of a front end."""

from __future__ import annotations

from .replies import Reply, text, thinking, tool
from .requests import Request

HELP = """\
I am a fake model. Try one of these:

- `run <command>`: use the Bash tool, then report what it printed
- `slow`: stream word by word, twenty a second
- `markdown`: show a sample of Markdown
- `think`: think first, answer after
- anything else: hear it said back
"""

SLOW = " ".join(f"word-{n}" for n in range(1, 101))

MARKDOWN = """\
# A heading

A paragraph with **bold**, *italic*, ~~struck~~, `code` and a [link](https://example.org).

1. first
2. second
   - nested

> A quotation, with < and & and > in it.

| name | value |
|------|------:|
| one  |     1 |
| two  |     2 |

```python
def hello(name: str) -> str:
    return f"Hello, {name}!"
```
"""

SAMPLES = {
    "help": text(HELP),
    "markdown": text(MARKDOWN),
    "slow": text(SLOW, delay=0.05),
    "think": thinking("Let me see. Yes, that is it.", "I have thought about it."),
}


def improvise(request: Request) -> Reply:
    if request.tool_result is not None:
        return text(f"It printed:\n\n```\n{request.tool_result}\n```")
    said = request.last_text.strip()
    word, _, rest = said.partition(" ")
    if word.lower() == "run" and rest:
        return tool("Bash", {"command": rest, "description": "Asked for by the user"})
    return SAMPLES.get(said.lower()) or text(f"You said: {said}")
