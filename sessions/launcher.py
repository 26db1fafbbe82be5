"""What one user's agent is started with: its box, its environment, its arguments."""

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sessions import providers
from sessions.claude import Options, arguments
from sessions.command import gated
from sessions.sandbox import CLAUDE, Box, Command, Isolation, Mount, wrap
from sessions.store import SessionRow
from sessions.workspace import Owner, Workspaces

Credentials = Callable[[Owner, str], Awaitable[dict[str, str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launcher:
    isolation: Isolation
    cli: Path
    workspaces: Workspaces
    credentials: Credentials
    ollama_base_url: str
    proxy: Mapping[str, str]
    readonly: tuple[Path, ...]

    async def claude(self, session: SessionRow, options: Options) -> Command:
        credential = await self.credentials(session.owner, session.purpose)
        env = providers.environment(options.model, credential, self.ollama_base_url)
        return self._command(session, env, [str(self._program()), *arguments(options)])

    def forget(self, session: SessionRow) -> Command:
        """Take away what the CLI itself keeps of a conversation, as its user and in their box."""
        script = 'rm -rf -- "$HOME"/.claude/projects/*/"$1".jsonl "$HOME"/.claude/*/"$1"'
        program = ["/bin/sh", "-c", script, "sh", str(session.cli_id)]
        return self._command(replace(session, cwd="/"), {}, program)

    def forget_tmp(self, session_id: str) -> Command:
        """By a program of its own: how deep an agent's folders go is the agent's to choose."""
        remove = ("/bin/rm", "-rf", "--", str(self.workspaces.tmp(session_id)))
        return Command(gated(Path("/"), remove), {"PATH": "/usr/bin:/bin"})

    def _program(self) -> Path:
        return CLAUDE if self.isolation.kind == "bwrap" else self.cli

    def _command(self, session: SessionRow, env: Mapping[str, str], program: list[str]) -> Command:
        owner, spaces = session.owner, self.workspaces
        box = Box(
            name=session.id,
            username=owner.username,
            uid=owner.uid if os.geteuid() == 0 else None,
            home=spaces.home(owner),
            cwd=Path(session.cwd),
            tmp=spaces.private_tmp(owner, session.id),
            env={**self._environment(owner), **env},
            mounts=tuple(Mount(path, path) for path in self.readonly),
        )
        return wrap(self.isolation, box, program, cli=self.cli)

    def _environment(self, owner: Owner) -> dict[str, str]:
        """Built from nothing: an agent inherits none of the server's own."""
        env = {
            "HOME": str(self.workspaces.home(owner)),
            "USER": owner.username,
            "LOGNAME": owner.username,
            "SHELL": "/bin/bash",
            "PATH": f"{self._program().parent}:/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "DISABLE_AUTOUPDATER": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
            "CLAUDE_CODE_DISABLE_CRON": "1",
        }
        if self.proxy:
            # A proxy would be asked even for loopback, and then tried again for minutes.
            spared = ",".join(filter(None, ("127.0.0.1,localhost", self.proxy.get("NO_PROXY"))))
            env |= {**self.proxy, "NO_PROXY": spared, "no_proxy": spared}
        if self.isolation.kind == "none" and os.geteuid() == 0:
            env["IS_SANDBOX"] = "1"  # else the CLI refuses to bypass permissions as root
        return env
