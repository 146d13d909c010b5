"""Control and gateway as they look from outside: whether they answer, and why they ended."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from madang.ending import heard
from madang.errors import MadangError
from madang.settings import (
    CONTROL_SOCKET,
    LOG_RING_BYTES,
    Home,
    gateway_processes,
    gateway_uids,
)
from madang.tls import dial

PROGRAMS = {"control": "madang.app", "gateway": "madang.gateway"}
"""What the supervisor starts by itself, by its module."""
ANSWER_S = 2.0
HEALTH_BYTES_MAX = 64 << 10
_HEALTH = {"control": "/readyz", "gateway": "/healthz"}
ASKS = 24
"""So often, for each process of a gateway, its port is asked until all of them have answered."""
SILENCES_MAX = 2


def parts_of(home: Home) -> tuple[str, ...]:
    """Return what the supervisor starts by itself: control, and the gateway's processes."""
    count = 1
    with suppress(MadangError):
        count = gateway_processes(home)
    return "control", *gateway_uids(count)


def log_of(home: Home, part: str) -> Path:
    """Return where a part's output is kept."""
    return home.logs / f"{part}.log"


def has_opened(home: Home) -> bool:
    """Tell whether control of this very home listens: who answers on its port may be another's."""
    try:
        folder = os.open(home.sockets, os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return False
    with socket.socket(socket.AF_UNIX) as door:
        try:
            door.connect(f"/proc/self/fd/{folder}/{CONTROL_SOCKET}")
        except OSError:
            return False
        finally:
            os.close(folder)
    return True


def end_of_log(home: Home, part: str) -> int:
    """Return the length of a part's log: what comes later is new."""
    try:
        return log_of(home, part).stat().st_size
    except OSError:
        return 0


def last_words(home: Home, part: str, after: int = 0) -> list[MadangError]:
    """Return why a part has ended, each time since its log was that long; the newest last."""
    try:
        with log_of(home, part).open("rb") as log:
            if after <= end_of_log(home, part):
                log.seek(after)
            return heard(log.read(LOG_RING_BYTES).decode(errors="replace"))
    except OSError:
        return []


def has_ended(home: Home, part: str) -> MadangError | None:
    """Return why a part has ended, if that is the last thing it said."""
    try:
        lines = log_of(home, part).read_text(errors="replace").splitlines()
    except OSError:
        return None
    said = heard(lines[-1]) if lines else []
    return said[-1] if said else None


def health_of(
    part: str, host: str, port: int, is_secure: bool = False
) -> tuple[int, dict[str, Any]]:
    """Return status and body of a part's health; 0 when what is there does not speak HTTP."""
    scheme = "https" if is_secure else "http"
    connection = dial(urlsplit(f"{scheme}://{host}:{port}"), ANSWER_S, own=True)
    said: Any = {}
    try:
        connection.request("GET", _HEALTH[part])
        answer = connection.getresponse()
        with suppress(ValueError, RecursionError):  # of somebody else
            said = json.loads(answer.read(HEALTH_BYTES_MAX))
        return answer.status, said if isinstance(said, dict) else {}
    except (OSError, HTTPException):
        return 0, {}
    finally:
        connection.close()


def health_of_each(
    uids: Sequence[str], host: str, port: int, is_secure: bool = False
) -> dict[str, tuple[int, dict[str, Any]]]:
    """Return the same of several gateways on one port, by uid; whoever did not answer is left out.

    The kernel chooses who is asked, so it is asked until all have answered, or some do not.
    """
    found: dict[str, tuple[int, dict[str, Any]]] = {}
    silences = 0
    for _ in range(ASKS * len(uids)):
        status, said = health_of("gateway", host, port, is_secure)
        found[str(said.get("process", uids[0]))] = status, said
        silences += not status
        if silences >= SILENCES_MAX or not set(uids) - found.keys():
            break
    return {uid: found[uid] for uid in uids if uid in found and found[uid][0]}
