"""What `madang doctor` can see by itself, whether or not anything runs: the home, its parts.

Each check looks at one thing and changes nothing that lasts.
"""

from __future__ import annotations

import fcntl
import math
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from madang import settings
from madang.answers import Check
from madang.app import look as outside
from madang.app import parts
from madang.app.look import found, told, unusable
from madang.cli import background
from madang.cli.address import Address, last
from madang.errors import MadangError, Unavailable
from madang.settings import Home

FILES_MIN = 1024
"""With fewer open files than this a gateway turns applications away."""
FILES_SPARE = 8
"""A process that may open fewer than this has none left for the next request."""
MEMORY_SPARE_BYTES = 16 << 20
"""With less than this between what it uses and what it may use, a process can do little."""
CERTIFICATE_DAYS_MIN = 14
"""A certificate that is good for less is called old."""
LOOK_S = 2.0
"""How long another command may be working on the home before that is all there is to say."""


def look(home: Home) -> Iterator[Check]:
    """Look at everything that can be seen from outside, the ground first."""
    try:
        os.scandir(home.path).close()
    except (FileNotFoundError, NotADirectoryError):
        yield found("control.not-started", str(home.path), ok=False)
        return
    except OSError as error:
        yield unusable(home, error)
        return
    yield from outside.look(home)
    yield from _running(home)


def _running(home: Home) -> Iterator[Check]:
    """Supervisor, control and gateway: who lives, who answers, and why the others ended."""
    try:
        with background.alone(home, LOOK_S):
            if not (pid := background.holder(home)):
                yield from _at_rest(home)
                return
    except OSError:
        return  # not our home to lock: that has been told
    except Unavailable as error:
        yield told(error)
        return
    yield found("doctor.supervisor-alive", ok=True, pid=pid)
    yield from _limits(pid)
    yield from _bounds(pid)
    try:
        where = last(home)
    except MadangError:
        return  # that has been told
    if where is None:
        yield found("up.no-address", str(home.listen), ok=False, pid=pid)
        return
    control = _part(home, "control", where, parts.health_of("control", *where))
    yield control
    if not control["ok"]:
        yield from _state(home)
    yield from _gateways(home, Address(where.host, where.port + 1))


def _gateways(home: Home, where: Address) -> Iterator[Check]:
    """Say of each process of the gateway whether it answers, and of their certificates."""
    _, *uids = parts.parts_of(home)
    secure = _is_secure(home)
    if len(uids) == 1:
        health = {uids[0]: parts.health_of("gateway", *where, secure)}
    else:
        health = parts.health_of_each(uids, *where, secure)
    seen: list[Check] = []
    for uid in uids:
        yield _part(home, uid, where, health.get(uid, (0, {})))
        for found_of in _certificate(home, health.get(uid, (0, {}))[1].get("tls")):
            if found_of not in seen:  # each shows it, and may have read it at another moment
                seen.append(found_of)
                yield found_of
    if any(said.get("machine_code") is False for _, said in health.values()):
        yield found("doctor.gateway-plain", "gateway", ok=True)


def _part(home: Home, part: str, where: Address, health: tuple[int, dict[str, Any]]) -> Check:
    """Say whether a part answers at its port; if not, what it said last."""
    status, said = health
    if status == 200 and said.get("lacked"):
        return found("doctor.part-short", part, ok=False, cause=str(said["lacked"]))
    if status == 200:
        return found("doctor.part-answers", part, ok=True, port=where.port)
    if error := parts.has_ended(home, part):
        return told(error)
    if status:
        return found("doctor.part-not-ready", part, ok=False, port=where.port, status=status)
    line = background.last_line(parts.log_of(home, part))
    return found("doctor.part-silent", part, ok=False, port=where.port, cause=line or "-")


def _is_secure(home: Home) -> bool:
    with suppress(MadangError):
        return settings.tls_files(home) is not None
    return False


def _certificate(home: Home, said: object) -> Iterator[Check]:
    """Say how long the gateway's certificate is good, and what keeps another from being shown."""
    if not _is_secure(home) or not isinstance(said, dict):
        return
    path = str(home.tls.read_text(encoding="utf-8").splitlines()[0])
    if said.get("fault"):
        yield found("doctor.tls-kept", path, ok=False, cause=str(said["fault"]))
    days = math.floor((float(said.get("ends_at", 0)) - time.time()) / 86400)
    if days < 0:
        yield found("doctor.tls-over", path, ok=False, days=-days)
    elif days < CERTIFICATE_DAYS_MIN:
        yield found("doctor.tls-ends", path, ok=False, days=days)
    else:
        yield found("doctor.tls-good", path, ok=True, days=days)


def _at_rest(home: Home) -> Iterator[Check]:
    """Where nothing runs: why it has ended, and what it left. To be looked at alone.

    A control that lives without its supervisor would keep the next one out.
    """
    yield found("doctor.supervisor-down", ok=False)
    yield from (told(e) for part in parts.parts_of(home) if (e := parts.has_ended(home, part)))
    with kept_out(home) as pid:
        if pid:
            yield found("store.held", str(home.path), ok=False, pid=pid)
        else:
            yield from outside.state(home)


def _state(home: Home) -> Iterator[Check]:
    """Look at the state while its control is down; one that begins now waits its turn."""
    with kept_out(home) as pid:
        if not pid:
            yield from outside.state(home)


@contextmanager
def kept_out(home: Home) -> Iterator[str]:
    """Keep every control from the state; gives the process that has it, nothing where none has."""
    try:
        lock = home.control_lock.open("rb")
    except OSError:
        yield ""  # no control was ever here, or it isn't ours to look into
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            yield lock.read(20).decode("ascii", "replace").strip() or "?"
        else:
            yield ""


def _limits(pid: int) -> Iterator[Check]:
    """How many files the supervisor, and so all it starts, may open."""
    with suppress(OSError, ValueError, IndexError):
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        line = next(line for line in limits if line.startswith("Max open files"))
        hard = line.split()[4]
        if hard != "unlimited" and int(hard) < FILES_MIN:
            yield found("doctor.files-few", ok=False, limit=int(hard), wanted=FILES_MIN)


def _bounds(pid: int) -> Iterator[Check]:
    """Which of our processes have as good as no open file, or no memory, left that they may use."""
    names = {pid: "supervisor"}
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            argv = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            uid = argv[argv.index(b"--uid") + 1].decode() if b"--uid" in argv else ""
            names |= {int(child): uid or p for p, m in parts.PROGRAMS.items() if m.encode() in argv}
    for each, name in names.items():
        with suppress(OSError):
            limit, _ = resource.prlimit(each, resource.RLIMIT_NOFILE)
            count = sum(1 for _ in Path(f"/proc/{each}/fd").iterdir())
            if count > limit - FILES_SPARE:
                yield found("doctor.files-out", name, ok=False, count=count, limit=limit)
            limit, _ = resource.prlimit(each, resource.RLIMIT_AS)
            pages = int(Path(f"/proc/{each}/statm").read_text().split()[0])
            if 0 <= limit < pages * resource.getpagesize() + MEMORY_SPARE_BYTES:
                yield found("doctor.memory-out", name, ok=False, limit_mib=limit >> 20)
