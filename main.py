"""The composition root: what is made at the start, in which order, and how it ends."""

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry

import config
import datadir
from accounts.passwords import Hasher
from accounts.users import Users
from config import VERSION, Settings
from db import Database
from errors import AppError
from instances import DEAD_SECONDS, Instances
from panel.app import Panel
from panel.caller import Doorkeeper
from panel.health.handlers import HealthHandlers
from panel.routes import routes
from panel.sessions.handlers import SessionHandlers
from panel.users.handlers import UserHandlers
from sessions import admission, cgroup, claude, logins, sandbox
from sessions.admission import Policy
from sessions.engine import Engine
from sessions.launcher import Launcher
from sessions.metrics import Metrics
from sessions.workspace import Owner, Workspaces

TICK_SECONDS = 1.0
STALE_SECONDS = 30.0
CHECK_SECONDS = 2.0
CLOSE_SECONDS = 12.0
LEAST_FREE = 64 * 1024 * 1024

log = logging.getLogger("main")


class App:
    """Everything that runs, from start() to stop()."""

    def __init__(self, settings: Settings, policy: Policy | None = None) -> None:
        self.settings = settings
        self.policy = policy or _policy(settings)
        self.made_up_password: str | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._ticked_at = time.monotonic()
        self._undo: list[Callable[[], Awaitable[Any]]] = []
        self._ready = False
        self._checked_at = 0.0
        self._checked: dict[str, Any] = {}

    @property
    def port(self) -> int:
        return self.panel.port

    @property
    def url(self) -> str:
        return f"http://{shown_host(self.settings.host)}:{self.port}"

    @property
    def has_service_login(self) -> bool:
        return bool(logins.service_token(self.settings.service_home))

    async def start(self) -> None:
        try:
            await self._open()
            await self._make_engine()
            await self._listen()
            await self.engine.recover(self._left_behind)
        except BaseException:
            await self.stop()
            raise
        self._ticking = asyncio.create_task(self._tick())
        self._ready = True

    async def stop(self, drain_seconds: float = 0.0) -> None:
        """Running turns get so long to end by themselves; then they are told and recorded."""
        self._ready = False
        if self._ticking:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)
        if self._undo and hasattr(self, "engine"):
            self._undo.append(partial(self._drain, drain_seconds))
        while self._undo:
            undo = self._undo.pop()
            try:
                await undo()
            except AppError as error:
                log.error("could not end cleanly: %s", error.message)
            except Exception:
                log.exception("could not end cleanly")

    async def _drain(self, seconds: float) -> None:
        async with asyncio.timeout(seconds + CLOSE_SECONDS):
            await self.engine.drain(seconds)

    async def _open(self) -> None:
        settings = self.settings
        lock = datadir.open_alone(settings.data_dir, alone=settings.uses_sqlite)
        self._undo.append(lock.release)
        self.api_key = settings.orchestrator_api_key or datadir.api_key(settings.data_dir)
        self.db = Database(settings.database)
        self._undo.append(self.db.close)
        await self.db.migrate()
        self.users = Users(self.db, Hasher())
        self._undo.append(self.users.close)
        self.made_up_password = await self.users.make_first_admin(settings)
        self.instances = Instances(self.db, time.time)
        self._left_behind = await self.instances.join()
        self._undo.append(self.instances.leave)

    async def _make_engine(self) -> None:
        settings = self.settings
        self.claude = config.find_claude(settings)
        self.claude_version = await claude.version(self.claude)
        self.workspaces = Workspaces(settings.data_dir)
        self.isolation = await self._isolation()
        launcher = Launcher(
            isolation=self.isolation,
            cli=self.claude,
            workspaces=self.workspaces,
            credentials=self._credentials,
            ollama_base_url=settings.ollama_base_url,
            proxy=config.proxy_environment(),
            readonly=settings.sandbox_readonly,
        )
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.engine = Engine(self.db, launcher, self.policy, self.metrics, self.instances.id)

    async def _isolation(self) -> sandbox.Isolation:
        folder = self.settings.data_dir
        # On PostgreSQL servers may share the folder, and none may sweep another's groups.
        alone = self.settings.uses_sqlite
        own = "" if alone else f"-{self.instances.id[:8]}"
        groups = cgroup.Groups.find(datadir.label(folder) + own)
        if groups and alone:
            await groups.sweep()
        return await sandbox.choose(self.settings.isolation, self.claude, folder, groups=groups)

    async def _listen(self) -> None:
        settings = self.settings
        doorkeeper = Doorkeeper(
            self.users,
            self.api_key,
            settings.metrics_token,
            allow_query_key=settings.allow_query_api_key,
        )
        sandboxed = self.isolation.kind == "bwrap"
        mode = settings.default_permission_mode or ("bypassPermissions" if sandboxed else "default")
        sessions = SessionHandlers(
            self.engine, self.workspaces, settings.claude_default_model, mode
        )
        health = HealthHandlers(self.health, lambda: self._ready, self.registry)
        self.panel = Panel(doorkeeper, routes(sessions, UserHandlers(self.users), health))
        self._undo.append(self.panel.close)
        await self.panel.listen(settings.host, settings.port)

    async def _credentials(self, owner: Owner, purpose: str) -> dict[str, str]:
        home = self.workspaces.home(owner)
        settings = self.settings
        return logins.credential(home, settings.default_credential, settings.service_home)

    # What happens by itself, once a second.

    async def _tick(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(TICK_SECONDS)
            now = self._ticked_at = time.monotonic()
            self.metrics.loop_lag.set(max(0.0, now - before - TICK_SECONDS))
            try:
                await self.step(now)
            except AppError as error:
                log.error("a tick failed: %s", error.message)
            except Exception:
                log.exception("a tick broke")

    async def step(self, now: float) -> None:
        await self.engine.step(now)
        await self._beat()
        await self.engine.sweep(now, self.settings.retention_days)

    async def _beat(self) -> None:
        if self.instances.overdue:
            # Others may have taken over what was ours, so ours may not go on with it.
            await self.engine.abandon()
            await self._begin_again()
        dead = await self.instances.step(time.time())
        if self.instances.id in dead:
            await self.engine.abandon()
            await self._begin_again()
        elif dead:
            await self.engine.recover(dead)

    async def _begin_again(self) -> None:
        """What was abandoned is told as cut off, unless another server has told it."""
        await self.engine.recover([self.instances.id])
        dead = await self.instances.join()
        await self.engine.recover(dead)

    # How it is doing.

    async def health(self) -> dict[str, Any]:
        checks = {
            "database": await self._check_database(),
            "tick": self._check_tick(),
            "claude": {"ok": self.claude.exists()},
            "disk": self._check_disk(),
        }
        return {
            "ok": all(check["ok"] for check in checks.values()),
            "version": VERSION,
            "claude_present": checks["claude"]["ok"],
            "claude_version": self.claude_version,
            "isolation": self.isolation.kind,
            "isolation_reason": self.isolation.reason,
            "checks": checks,
        }

    async def _check_database(self) -> dict[str, Any]:
        """Anybody may ask, agents too: the database itself is asked once a second at most."""
        now = time.monotonic()
        if now - self._checked_at > TICK_SECONDS:
            self._checked_at, self._checked = now, await self._ask_database()
        return self._checked

    async def _ask_database(self) -> dict[str, Any]:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await self.db.run(_nothing)
        except (AppError, TimeoutError):
            return {"ok": False, "detail": "The database does not answer as it should."}
        silence = time.time() - self.instances.beaten_at
        ok = silence < DEAD_SECONDS
        return {"ok": ok, "kind": self.db.dialect, "written_seconds_ago": round(silence, 1)}

    def _check_tick(self) -> dict[str, Any]:
        age = time.monotonic() - self._ticked_at
        return {"ok": age < STALE_SECONDS, "age_seconds": round(age, 1)}

    def _check_disk(self) -> dict[str, Any]:
        free = shutil.disk_usage(self.settings.data_dir).free
        return {"ok": free > LEAST_FREE, "free_bytes": free}


def _nothing() -> None:
    """The writer thread lives, and the database takes a transaction."""


def shown_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _policy(settings: Settings) -> Policy:
    _, total = admission.memory()
    return Policy.for_machine(
        len(os.sched_getaffinity(0)),
        total,
        resident=settings.max_live_sessions,
        idle_seconds=settings.session_idle_seconds,
    )


if __name__ == "__main__":
    import commands

    raise SystemExit(commands.main())
