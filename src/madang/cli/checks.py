"""What `madang doctor` can see by itself, whether or not anything runs: home, ports, parts.

Each check looks at one thing and changes nothing that lasts.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from madang.answers import Check
from madang.cli import background, parts
from madang.cli.address import Address, last
from madang.errors import MadangError, Unavailable, Value
from madang.settings import Home

FREE_BYTES_MIN = 1_000_000_000
"""Less than this on the home's disk is called short."""
FILES_MIN = 1024
"""With fewer open files than this a gateway turns applications away."""
FILES_SPARE = 8
"""A process that may open fewer than this has none left for the next request."""
LOOK_S = 2.0
"""How long another command may be working on the home before that is all there is to say."""
LOOK_BYTES_MAX = 64 << 20


def found(code: str, subject: str = "", *, ok: bool, **values: Value) -> Check:
    """Return one finding."""
    return Check(code=code, ok=ok, subject=subject, values=values)


def told(error: MadangError) -> Check:
    """Return an error as a finding: it has its sentence and its next step already."""
    return Check(code=error.code, ok=False, subject=error.subject, values=error.values)


def look(home: Home) -> Iterator[Check]:
    """Look at everything that can be seen from outside, the ground first."""
    try:
        os.scandir(home.path).close()
    except (FileNotFoundError, NotADirectoryError):
        yield found("control.not-started", str(home.path), ok=False)
        return
    except OSError as error:
        yield _unusable(home, error)
        return
    yield from _ground(home)
    yield from _files(home)
    yield from _keys(home)
    yield from _running(home)


def _ground(home: Home) -> Iterator[Check]:
    """What the home stands on: may it be written, on what, and how much room is left."""
    from madang.app.upkeep import network_file_system
    from madang.cli.output import size

    probe = home.path / f".doctor-{os.getpid()}"
    try:
        with probe.open("wb") as file:
            file.write(b"?" * 4096)
            file.flush()
            os.fsync(file.fileno())
        yield found("doctor.home-usable", str(home.path), ok=True)
    except OSError as error:
        yield _unusable(home, error)
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    if kind := network_file_system(home):
        yield found("store.network-file-system", str(home.path), ok=False, filesystem=kind)
    free = shutil.disk_usage(home.path).free
    code = "doctor.disk-free" if free >= FREE_BYTES_MIN else "doctor.disk-short"
    yield found(code, ok=free >= FREE_BYTES_MIN, free=size(free) or "0B")


def _unusable(home: Home, error: OSError) -> Check:
    cause = error.strerror or str(error)
    return found("doctor.home-unusable", str(home.path), ok=False, cause=cause)


def _files(home: Home) -> Iterator[Check]:
    """Files that a part reads when it starts: each must be what it was written as."""
    told = home.listen, home.boot, home.path / "supervisor" / "journal.json"
    for path in (*told, home.gateway / "table.json"):
        with suppress(FileNotFoundError):
            if cause := _damage(path):
                yield found("doctor.file-damaged", str(path), ok=False, cause=cause)
    usage = home.gateway / "usage.jsonl"
    with suppress(OSError):
        with usage.open("rb") as file:
            lines = file.read(LOOK_BYTES_MAX).splitlines()
        if damaged := sum(not _is_json(line) for line in lines):
            yield found("doctor.usage-damaged", str(usage), ok=False, count=damaged)
    for path in (home.gateway / "table.corrupt", home.path / "supervisor" / "journal.corrupt"):
        if path.exists():
            yield found("doctor.file-set-aside", str(path), ok=False)


def _damage(path: Path) -> str:
    """Say what is wrong with a JSON file; nothing if it can be read."""
    try:
        kept: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        return error.strerror or str(error)
    except (ValueError, RecursionError) as error:
        return str(error)
    return "" if isinstance(kept, dict | list) else "not an object"


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _keys(home: Home) -> Iterator[Check]:
    """The two secret files: there, whole, and for their owner alone."""
    was_started = home.state.exists()
    for path, length_min in ((home.admin_key, 1), (home.secret, 32)):
        try:
            mode, secret = path.stat().st_mode, path.read_bytes().strip()
        except FileNotFoundError:
            if was_started:
                yield found("doctor.key-missing", str(path), ok=False)
            continue
        except OSError as error:
            cause = error.strerror or str(error)
            yield found("doctor.file-damaged", str(path), ok=False, cause=cause)
            continue
        if mode & 0o077:
            yield found("doctor.key-readable", ok=False, path=str(path))
        if len(secret) < length_min:
            yield found("doctor.key-missing", str(path), ok=False)


def _running(home: Home) -> Iterator[Check]:
    """Supervisor, control and gateway: who lives, who answers, and why the others ended."""
    try:
        with background.alone(home, LOOK_S):
            pid = background.holder(home)
    except OSError:
        return  # not our home to lock: that has been told
    except Unavailable as error:
        yield told(error)
        return
    if not pid:
        yield found("doctor.supervisor-down", ok=False)
        yield from (told(e) for part in parts.PARTS if (e := parts.has_ended(home, part)))
        yield from _second_control(home)
        return
    yield found("doctor.supervisor-alive", ok=True, pid=pid)
    yield from _limits(pid)
    yield from _open_files(pid)
    where = last(home)
    if where is None:
        yield found("up.no-address", str(home.listen), ok=False, pid=pid)
        return
    for part, port in zip(parts.PARTS, (where.port, where.port + 1), strict=True):
        yield _part(home, part, Address(where.host, port))


def _part(home: Home, part: str, where: Address) -> Check:
    """Say whether a part answers at its port; if not, what it said last."""
    status = parts.status_of(part, *where)
    if status == 200:
        return found("doctor.part-answers", part, ok=True, port=where.port)
    if error := parts.has_ended(home, part):
        return told(error)
    if status:
        return found("doctor.part-not-ready", part, ok=False, port=where.port, status=status)
    line = background.last_line(parts.log_of(home, part))
    return found("doctor.part-silent", part, ok=False, port=where.port, cause=line or "-")


def _second_control(home: Home) -> Iterator[Check]:
    """A control that lives without its supervisor would keep the next one out."""
    with suppress(OSError), home.control_lock.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = lock.read(20).decode("ascii", "replace").strip() or "?"
            yield found("store.held", str(home.path), ok=False, pid=pid)


def _limits(pid: int) -> Iterator[Check]:
    """How many files the supervisor, and so all it starts, may open."""
    with suppress(OSError, ValueError, IndexError):
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        line = next(line for line in limits if line.startswith("Max open files"))
        hard = line.split()[4]
        if hard != "unlimited" and int(hard) < FILES_MIN:
            yield found("doctor.files-few", ok=False, limit=int(hard), wanted=FILES_MIN)


def _open_files(pid: int) -> Iterator[Check]:
    """Which of our processes have as good as no file left that they may open."""
    names = {pid: "supervisor"}
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            argv = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            names |= {int(child): p for p, m in parts.PROGRAMS.items() if m.encode() in argv}
    for each, name in names.items():
        with suppress(OSError):
            limit, _ = resource.prlimit(each, resource.RLIMIT_NOFILE)
            count = sum(1 for _ in Path(f"/proc/{each}/fd").iterdir())
            if count > limit - FILES_SPARE:
                yield found("doctor.files-out", name, ok=False, count=count, limit=limit)
