"""What a hostile agent tries. The fake model makes the real CLI run each probe as a shell command:
first where nothing confines it, so that the probe is known to work, then in the sandbox."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.api import Api, last
from tests.e2e.server import Server, serving
from tests.fakes.model import FakeModel, text, tool

CANARY = "canary-7b1f0c55"
WON = "the-probe-won"

# ptrace: attach to each, and let go again. Numbers of system calls are those of x86-64 and arm64.
ATTACH = (
    "perl -e 'my $n = `uname -m` =~ /aarch64/ ? 117 : 101; for (@ARGV) { "
    "if (syscall($n, 16, $_ + 0, 0, 0) == 0) "
    f'{{ print "{WON}\\n"; waitpid($_, 0); syscall($n, 17, $_ + 0, 0, 0) }} }}\' '
)
# The flags of the loopback interface, written back as they are: it takes the same right as
# taking it down.
INTERFACE = (
    'perl -e \'use Socket; socket(my $s, AF_INET, SOCK_DGRAM, 0); my $r = pack("a16x16", "lo"); '
    f'ioctl($s, 0x8913, $r) && ioctl($s, 0x8914, $r) && print "{WON}\\n"\''
)

PROBES = {
    "reads another user's home": "cat {victim}/secret.txt",
    "lists another session's /tmp": "ls {data}/tmp/{other} && echo " + WON,
    "reads the database": "head -c 6 {data}/orchestrator.db | grep -q SQLite && echo " + WON,
    "reads the API key": "cat {data}/api-key | grep -q . && echo " + WON,
    "reads the server's environment": "tr '\\0' '\\n' < /proc/{server}/environ",
    "searches every environment": "grep -aoh {canary} /proc/[0-9]*/environ",
    "reads the first process's environment": "cat /proc/{first}/environ > /dev/null && echo " + WON,
    "goes through the first process's root": "ls /proc/{first}/root/ && echo " + WON,
    "sees the server's process": "grep -a -e -m.main /proc/{server}/cmdline && echo " + WON,
    "mounts": "mkdir -p m && mount -t tmpfs none m && umount m && echo " + WON,
    "traces": ATTACH + "{server} {first}",
    "writes /proc/sys": 'f=/proc/sys/kernel/core_pattern; v=$(cat $f); echo "$v" > $f && echo '
    + WON,
    "changes an interface": INTERFACE,
    "reads /etc/shadow": "head -1 /etc/shadow && echo " + WON,
    "makes a device": "mknod d c 1 1 && echo " + WON,
}


@dataclass(frozen=True)
class Scene:
    server: Server
    agent: Api
    session_id: str
    facts: dict[str, str]
    model: FakeModel

    async def run(self, command: str) -> str:
        """What the agent's shell printed."""
        self.model.add(tool("Bash", {"command": command}), text("Done."))
        events = await self.agent.ask(self.session_id, "go on")
        assert last(events)["outcome"] == "ok", events
        return str(next(event["output"] for event in events if event["type"] == "tool_result"))

    async def won(self, command: str) -> bool:
        for name, fact in self.facts.items():
            command = command.replace("{" + name + "}", fact)
        printed = await self.run(command)
        return WON in printed or CANARY in printed


@asynccontextmanager
async def scene(folder: Path, isolation: str) -> AsyncIterator[Scene]:
    data = folder / "data"
    settings = {"ISOLATION": isolation, "METRICS_TOKEN": CANARY, "ORCHESTRATOR_API_KEY": ""}
    async with (
        FakeModel() as model,
        serving(data, model, **settings) as server,
        server.user() as admin,
        server.user("mallory") as agent,
    ):
        await admin.request("POST", "/auth/users", json={"username": "mallory"})
        other = await admin.create()
        victim = data / "users" / "admin"
        (victim / "secret.txt").write_text(CANARY)
        session = await agent.create(permission_mode="bypassPermissions")
        # The box's own first process; the machine's may be out of reach even for root.
        first = str(server.pid) if isolation == "none" else "1"
        facts = {
            "data": str(data),
            "victim": str(victim),
            "other": other["id"],
            "server": str(server.pid),
            "first": first,
            "canary": CANARY,
        }
        yield Scene(server, agent, session["id"], facts, model)


async def test_every_probe_works_where_nothing_confines_it(tmp_path: Path) -> None:
    async with scene(tmp_path, "none") as unconfined:
        lost = [name for name, probe in PROBES.items() if not await unconfined.won(probe)]
    assert lost == []


async def test_no_probe_works_in_the_sandbox(tmp_path: Path) -> None:
    async with scene(tmp_path, "bwrap") as confined:
        won = [name for name, probe in PROBES.items() if await confined.won(probe)]
    assert won == []


@pytest.mark.parametrize(("isolation", "written"), [("none", True), ("bwrap", False)])
async def test_writing_outside_the_home(tmp_path: Path, isolation: str, written: bool) -> None:
    outside = tmp_path / "outside"
    system = Path(f"/usr/local/probe-{os.getpid()}")
    try:
        async with scene(tmp_path, isolation) as here:
            await here.run(f"echo x > {outside}; echo x > {system}; echo x > ~/inside")
        assert (outside.exists(), system.exists()) == (written, written)
        assert (tmp_path / "data" / "users" / "mallory" / "inside").exists()
    finally:
        system.unlink(missing_ok=True)


@pytest.mark.parametrize(("isolation", "killed"), [("none", True), ("bwrap", False)])
async def test_killing_the_server(tmp_path: Path, isolation: str, killed: bool) -> None:
    async with scene(tmp_path, isolation) as here:
        here.model.add(tool("Bash", {"command": f"kill -9 {here.server.pid}"}), text("Done."))
        stream = await here.agent.query(here.session_id, "go on")
        try:
            events = await stream.rest()
        except aiohttp.ClientError:
            events = stream.seen
        assert (events[-1]["type"] != "done") == killed
        if not killed:
            assert (await here.agent.request("GET", "/readyz"))["ready"] is True


async def test_two_users_see_nothing_of_each_other(server: Server, model: FakeModel) -> None:
    async with server.user() as admin, server.user("bob") as bob:
        await admin.request("POST", "/auth/users", json={"username": "bob"})
        mine, his = await admin.create(), await bob.create()
        look = "id -u; ls -A ~/.. ; ps -e -o args= | grep -c 'stream-json'"
        model.on("look around", tool("Bash", {"command": look}), text("Done."))
        seen = await bob.ask(his["id"], "look around")
        printed = next(event["output"] for event in seen if event["type"] == "tool_result")
        uid, *homes, _ = printed.splitlines()
        assert int(uid) > 20_000
        assert homes == ["bob"]
        assert [one["id"] for one in (await bob.request("GET", "/sessions"))["sessions"]] == [
            his["id"]
        ]
        assert mine["cwd"] != his["cwd"]
