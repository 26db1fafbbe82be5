"""How long `make run` takes, once everything is installed and migrated, until it is ready."""

import os
import signal
import socket
import subprocess
import time
from http.client import HTTPConnection, HTTPException
from statistics import median

from bench.report import Figure, at_most, spread
from bench.stage import Stage
from tests.e2e.server import API_KEY, ROOT

LOOK_SECONDS = 0.002
MOST_SECONDS = 60.0


async def figures(stage: Stage) -> list[Figure]:
    environment = _environment(stage)
    _start(environment)  # the first makes and migrates the database
    samples = [_start(environment) for _ in range(stage.rounds)]
    shown = spread(samples, " s")
    return [at_most("second `make run` until ready", median(samples), 1.5, " s", shown)]


def _environment(stage: Stage) -> dict[str, str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {
        **kept,
        "PORT": str(port),
        "DATA_DIR": str(stage.folder / "start"),
        "ORCHESTRATOR_API_KEY": API_KEY,
        "ANTHROPIC_API_KEY": "a-fake-key",
        "ANTHROPIC_BASE_URL": stage.model.url,
    }


def _start(environment: dict[str, str]) -> float:
    began = time.perf_counter()
    with subprocess.Popen(
        ["make", "--no-print-directory", "run"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as running:
        try:
            while not _ready(int(environment["PORT"])):
                assert running.poll() is None, "make run ended by itself"
                assert time.perf_counter() - began < MOST_SECONDS, "it does not get ready"
                time.sleep(LOOK_SECONDS)
            return time.perf_counter() - began
        finally:
            os.killpg(running.pid, signal.SIGINT)


def _ready(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
