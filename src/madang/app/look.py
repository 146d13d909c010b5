"""What can be seen of a home from outside, whether or not anything runs: ground, files, state.

Each check looks at one thing and changes nothing that lasts.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from madang import settings
from madang.answers import Check
from madang.app import upkeep
from madang.errors import MadangError, Value
from madang.settings import Home

FREE_BYTES_MIN = 1_000_000_000
"""Less than this on the home's disk is called short."""
LOOK_BYTES_MAX = 64 << 20


def found(code: str, subject: str = "", *, ok: bool, **values: Value) -> Check:
    """Return one finding."""
    return Check(code=code, ok=ok, subject=subject, values=values)


def told(error: MadangError) -> Check:
    """Return an error as a finding: it has its sentence and its next step already."""
    return Check(code=error.code, ok=False, subject=error.subject, values=error.values)


def look(home: Home) -> Iterator[Check]:
    """Look at everything of a home that lies there, the ground first; its state is `state`."""
    yield from _ground(home)
    yield from _files(home)
    yield from _keys(home)


def _ground(home: Home) -> Iterator[Check]:
    """What the home stands on: may it be written, on what, and how much room is left."""
    from madang.resources.quantity import written_size

    probe = home.path / f".doctor-{os.getpid()}"
    try:
        with probe.open("wb") as file:
            file.write(b"?" * 4096)
            file.flush()
            os.fsync(file.fileno())
        yield found("doctor.home-usable", str(home.path), ok=True)
    except OSError as error:
        yield unusable(home, error)
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    if kind := upkeep.network_file_system(home):
        yield found("store.network-file-system", str(home.path), ok=False, filesystem=kind)
    free = shutil.disk_usage(home.path).free
    code = "doctor.disk-free" if free >= FREE_BYTES_MIN else "doctor.disk-short"
    yield found(code, ok=free >= FREE_BYTES_MIN, free=written_size(free))


def unusable(home: Home, error: OSError) -> Check:
    """Say that a home can't be used, and why."""
    cause = error.strerror or str(error)
    return found("doctor.home-unusable", str(home.path), ok=False, cause=cause)


def _files(home: Home) -> Iterator[Check]:
    """Files that a part reads when it starts: each must be what it was written as."""
    from madang.gateway.journal import segments_in
    from madang.gateway.segment import is_whole

    for path in (
        home.boot,
        home.listen,
        home.journal,
        *home.tables,
    ):  # first-run.json is only there
        with suppress(FileNotFoundError):
            if cause := _damage(path):
                yield found("doctor.file-damaged", str(path), ok=False, cause=cause)
    yield from map(told, upkeep.newer_files(home))
    for usage in segments_in(home.gateway):
        with suppress(OSError):
            with usage.open("rb") as file:
                lines = file.read(LOOK_BYTES_MAX).splitlines()
            if damaged := sum(not is_whole(line) for line in lines):
                yield found("doctor.usage-damaged", str(usage), ok=False, count=damaged)
    tables = sorted(home.gateway.glob("table*.corrupt"))
    for path in (*tables, home.journal.with_suffix(".corrupt")):
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


def state(home: Home) -> Iterator[Check]:
    """Read a state that no control has open: what wrote it, and whether it is what was written."""
    is_in_file = not settings.database_url(home)
    if is_in_file and not (home.state.exists() and home.state.stat().st_size):
        if home.first_run.exists():
            yield found("doctor.state-lost", str(home.state), ok=False)
        return
    try:
        health, version = upkeep.examine_state(home)
    except MadangError as error:
        yield told(error)
        return
    newest = upkeep.schema_versions()[-1]
    if version and version != newest:
        yield found("doctor.state-older", health.place, ok=True, found=version, known=newest)
    facts = {"product": health.product, "version": health.version}
    yield found("doctor.store-well", health.place, ok=True, **facts)
    for name in health.unsafe:
        yield found("doctor.store-unsafe", health.place, ok=False, name=name)
