"""What the supervisor of a home starts by itself: control, and the gateway on the next port."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from madang import engines, symptoms
from madang.accelerators import watch
from madang.errors import Unavailable
from madang.settings import Home, gateway_processes, gateway_uids
from madang.supervisor.protocol import LaunchPlan

FLEET = "fleet"
CONTROL = "control"
PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "MADANG_LANG",
    "MADANG_COMPILED",
    "MADANG_NAMES",
    "MADANG_AUDIT_HEADS",
    "MADANG_BACKUP_AGE",
    "MADANG_MOVES_PER_100",
    "MADANG_FAIRNESS_BUDGET",
    "MADANG_JOBS_KEPT",
    "SSL_CERT_FILE",
    "TMPDIR",
)
"""What control and gateway see of the environment of `madang up`."""
SPARING = {"MALLOC_ARENA_MAX": "2"}
"""Memory: without it the C library keeps a heap of its own for every thread."""


def boot_plans(home: Home, host: str, port: int) -> list[dict[str, Any]]:
    """Return what the supervisor starts by itself: control, and the gateway on the next port.

    The gateway may be several processes that share it. And before them what stands for the nodes,
    where they are simulated.
    """
    env = {name: os.environ[name] for name in PASSED_ON if name in os.environ} | SPARING
    python = (sys.executable, "-I", "-m")
    where = (str(home.path), "--host", host, "--port")
    gateways = gateway_uids(gateway_processes(home))
    gateway = (*python, "madang.gateway", *where, str(port + 1), "--processes", str(len(gateways)))
    parts = (simulated_part(home) or watching_part()) | {
        CONTROL: (*python, "madang.app", *where, str(port)),
        **{uid: (*gateway, "--uid", uid) for uid in gateways},
    }
    return [
        asdict(LaunchPlan(uid=uid, epoch=1, argv=argv, env=env, restart="always", grace_s=15.0))
        for uid, argv in parts.items()
    ]


def simulated_part(home: Home) -> dict[str, tuple[str, ...]]:
    """Return how the process is started that stands for every simulated node, if there are any."""
    if not home.fleet.exists():
        return {}
    program = Path(engines.__file__).with_name("fake_fleet.py")
    return {FLEET: (sys.executable, "-I", "-S", str(program), str(home.path))}


def watching_part() -> dict[str, tuple[str, ...]]:
    """Return how what watches this machine's accelerators is started, if it has a tool for any."""
    if not watch.installed():
        return {}
    return {symptoms.UID: (sys.executable, "-I", "-S", str(Path(watch.__file__)))}


def free_port(host: str) -> int:
    """Return a port that is free together with the next one."""
    for _ in range(100):
        with socket.socket() as first, socket.socket() as second:
            first.bind((host, 0))
            port: int = first.getsockname()[1]
            with contextlib.suppress(OSError):
                second.bind((host, port + 1))
                return port
    raise Unavailable("up.no-free-port", host=host)
