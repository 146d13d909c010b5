"""`madang support`: what somebody who helps needs to see, in one file, and nothing else."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sqlite3
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from madang import __version__
from madang.app.parts import parts_of
from madang.cli.doctor import findings
from madang.cli.files import fresh
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import note, show_json, size, tell
from madang.client import Client
from madang.errors import MadangError, Rejected, Unavailable
from madang.governance.redact import log_lines, picked, without
from madang.settings import Home

EVENTS_MAX = 1000
LOG_BYTES_MAX = 1 << 20
PACKAGES = ("fastapi", "pydantic", "sqlalchemy", "uvicorn", "msgspec", "httptools", "xllamacpp")

_STATUS = frozenset({
    "version", "term", "revision", "nodes", "services", "processes", "usage", "project", "name",
    "phase", "ready", "wanted", "reason", "code", "cores", "memory_bytes", "accelerators", "uid",
    "pid", "rss_bytes", "restarts", "state", "requests", "prompt_tokens", "output_tokens",
    "cached_tokens", "next_try",
})  # fmt: skip
_FINDING = frozenset({"code", "ok", "subject"})
_EVENT = frozenset({"seq", "at", "actor", "code", "kind", "project", "name"})

README = """\
Madang support bundle. In it: versions, settings by name, what doctor found, status, the newest
events without their values, file names with sizes and modes, and what Madang's own processes
printed, without values. Left out: keys, digests and tokens, prompts and answers, titles and specs,
what engines printed. Names of projects, services, models and keys are in it.
"""


def support(file: str, /, *, options: Options = DEFAULTS) -> None:
    """Write a support bundle, a zip file; works while control is down.

    Parameters
    ----------
    file
        A name that nothing has yet. Look into it before you hand it on.
    """
    path, home = Path(file).expanduser().absolute(), options.place()
    if os.path.lexists(path):
        raise Rejected("support.exists", str(path))
    note("support.collecting")
    secrets = _secrets(home)
    members = {n: without(text, secrets) for n, text in [*_here(home), *_asked(options)]}
    _write(path, members)
    if options.json:
        show_json({"file": str(path), "members": list(members), "bytes": path.stat().st_size})
        return
    tell("support.done", subject=str(path), size=size(path.stat().st_size), count=len(members))


def _write(path: Path, members: Mapping[str, str]) -> None:
    try:
        with fresh(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bundle:
            for name, text in members.items():
                bundle.writestr(name, text)
    except OSError as error:
        raise Unavailable("support.failed", str(path), cause=error.strerror or "") from error


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def _here(home: Home) -> Iterator[tuple[str, str]]:
    """What can be seen without control."""
    yield "README.txt", README
    yield "about.json", _json(_about())
    yield "files.json", _json(list(_files(home)))
    yield "disk.json", _json(_disk(home))
    yield "processes.json", _json(list(_processes(home)))
    for name in ("supervisor", *parts_of(home)):  # what engines print may hold what people asked
        lines = log_lines(_log(home, name))
        yield f"logs/{name}.txt", "".join(f"{line}\n" for line in lines)


def _asked(options: Options) -> Iterator[tuple[str, str]]:
    """What doctor finds, and what control says; where it does not answer, why."""
    yield "doctor.json", _json(picked(list(findings(options)), _FINDING))
    try:
        with options.client() as client:
            yield "status.json", _json(picked(client.status(), _STATUS))
            yield "events.json", _json(picked(_events(client), _EVENT))
    except MadangError as error:
        yield "unanswered.json", _json({"code": error.code})


def _events(client: Client) -> list[Any]:
    known: list[Any] = []
    after = 0
    while found := client.events(after, EVENTS_MAX):
        after = found[-1]["seq"]
        known = [*known, *found][-EVENTS_MAX:]
    return known


def _about() -> dict[str, Any]:
    from madang.app.upkeep import schema_versions

    found = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return {
        "made_at": time.time(),
        "madang": __version__,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "packages": found,
        "schema_known": list(schema_versions()),
        "settings_given": sorted(name for name in os.environ if name.startswith("MADANG_")),
    }


def _files(home: Home) -> Iterator[dict[str, Any]]:
    """Names, sizes and modes, two levels deep; names are Madang's own."""
    for path in sorted([*home.path.glob("*"), *home.path.glob("*/*")]):
        with suppress(OSError):
            status = path.lstat()
            yield {
                "name": path.relative_to(home.path).as_posix(),
                "bytes": status.st_size,
                "mode": oct(status.st_mode),
                "changed_at": status.st_mtime,
            }


def _disk(home: Home) -> dict[str, Any]:
    from madang.app.upkeep import file_system

    with suppress(OSError):
        usage = shutil.disk_usage(home.path)
        return {"file_system": file_system(home.path), **usage._asdict()}
    return {}


def _processes(home: Home) -> Iterator[dict[str, Any]]:
    """What the supervisor's journal names, and how each is now; neither argv nor environment."""
    kept: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        kept = json.loads(home.journal.read_bytes())
    for process in kept.get("processes", ()):
        known = {key: process.get(key) for key in ("uid", "epoch", "pid")}
        with suppress(OSError, ValueError):
            lines = Path(f"/proc/{int(process['pid'])}/status").read_text().splitlines()
            said = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
            known |= {key: said.get(key, "").strip() for key in ("State", "VmRSS", "Threads")}
        yield known


def _log(home: Home, name: str) -> str:
    text = b""
    for path in (home.logs / f"{name}.log.1", home.logs / f"{name}.log"):
        with suppress(OSError), path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_BYTES_MAX))
            text += file.read(LOG_BYTES_MAX)
    return text[-LOG_BYTES_MAX:].decode(errors="replace")


def _secrets(home: Home) -> list[str]:
    """Return every secret that lies in the home or the environment, to be looked for at the end."""
    found = [os.environ.get("MADANG_KEY", ""), os.environ.get("MADANG_DATABASE_URL", "")]
    for path in (*home.path.glob("*.key"), home.database):
        with suppress(OSError):
            found.append(path.read_text(errors="replace").strip())
    for path in home.tables:
        with suppress(OSError, ValueError, KeyError, TypeError):
            table = json.loads(path.read_bytes())
            found += [target["token"] for each in table["endpoints"] for target in each["targets"]]
            found += list(table["keys"])
    return [secret for secret in found if secret]
