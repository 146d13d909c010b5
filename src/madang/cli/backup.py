"""`madang backup` and `madang restore`: a home in one file, a home of a file, and the drill."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

from cyclopts import App, Parameter

from madang.answers import Json
from madang.cli import background
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import moment, next_step, note, show_json, size, tell
from madang.client import Client
from madang.errors import Conflict, Corrupt, MadangError, Rejected, Unavailable
from madang.settings import Home

TURN_S = 30.0

backup = App(name="backup", help_format="plaintext")


@backup.default
def keep(file: str, /, *, options: Options = DEFAULTS) -> None:
    """Write the whole home into one new file: state, keys, records of models; not their files.

    Parameters
    ----------
    file
        A name that nothing has yet. Keep it as safe as the home: it holds every key.
    """
    path = Path(file).expanduser().absolute()
    kept = _kept(path, options)
    if options.json:
        show_json(kept)
        return
    tell("backup.done", subject=str(path), size=size(kept["file_bytes"]), seconds=kept["seconds"],
         kinds=_counts(kept["kinds"]), events=kept["rows"]["events"])  # fmt: skip
    if kept["model_files"]:
        whole = sum(each["size_bytes"] for each in kept["model_files"])
        tell("backup.without-models", count=len(kept["model_files"]), size=size(whole))
    next_step("next.backup", file=str(path))


def _kept(path: Path, options: Options) -> Json:
    """Take a backup and write it down; return what it says of itself."""
    from madang.app.upkeep import back_up, backup_said, keeping

    note("backup.taking")
    began = time.monotonic()
    client = options.client_if_up()
    if client is None:
        back_up(_lived_in(options.place()), path)
    else:
        with client, keeping(path) as write:
            for piece in client.backup():
                write(piece)
    said = backup_said(path) | {"file": str(path), "seconds": round(time.monotonic() - began, 3)}
    _note(options, client, {"what": "backed-up", "sha256": said["sha256"],
                            "bytes": said["file_bytes"], "seconds": said["seconds"]})  # fmt: skip
    return said


def _lived_in(home: Home) -> Home:
    if not home.secret.exists():
        raise Unavailable("control.not-started", str(home.path))
    return home


def _note(options: Options, client: Client | None, outcome: Json) -> None:
    from madang.app.upkeep import note_backup

    if client is not None:
        client.note_backup(outcome)
    elif options.place().secret.exists():
        note_backup(options.place(), outcome)


def _counts(kinds: Mapping[str, int]) -> str:
    shown = ("organization", "project", "user", "key", "model", "service")
    return ", ".join(f"{kind} {kinds[kind]}" for kind in shown if kinds.get(kind))


@backup.command
def drill(file: str = "", /, *, options: Options = DEFAULTS) -> None:
    """Restore a backup into a scratch home, open and query it, and say whether it can be relied on.

    Parameters
    ----------
    file
        A backup [default: one that is taken now, and removed again].
    """
    with TemporaryDirectory(prefix="madang-drill-") as folder:
        path = Path(file).expanduser().absolute() if file else Path(folder) / "fresh.backup"
        if not file:
            _kept(path, options)
        found = _drilled(path, options)
    if options.json:
        show_json(found)
        return
    tell("drill.done", subject=str(path) if file else "", seconds=found["seconds"],
         kinds=_counts(found["kinds"]), events=found["events"], made_at=moment(found["made_at"]),
         newest=moment(found["newest_event_at"]))  # fmt: skip
    tell("drill.restore", seconds=found["restore_s"])


def _drilled(path: Path, options: Options) -> Json:
    """Try a backup, and write down how it went whichever way that was."""
    from madang.app.upkeep import drill as try_out

    note("drill.trying")
    began = time.monotonic()
    try:
        found = try_out(path)
        if found["differences"]:
            raise Corrupt("drill.differs", str(path), what=", ".join(found["differences"][:5]))
    except MadangError as error:
        seconds = round(time.monotonic() - began, 3)
        with suppress(MadangError):  # the drill's own word counts
            outcome = {"what": "drill-failed", "cause": error.code, "seconds": seconds}
            _note(options, options.client_if_up(), outcome)
        raise
    found["seconds"] = round(time.monotonic() - began, 3)
    outcome = {"what": "drilled", "sha256": found["sha256"], "seconds": found["seconds"]}
    _note(options, options.client_if_up(), outcome)
    return found


def restore(
    file: str,
    /,
    *,
    replace: Annotated[bool, Parameter(negative=())] = False,
    options: Options = DEFAULTS,
) -> None:
    """Make a home of a backup: an empty one, or with --replace one that is stopped.

    Parameters
    ----------
    file
        What madang backup wrote.
    replace
        Put it in the place of what the home has now, which is kept aside.
    """
    from madang.app.upkeep import check_backup
    from madang.app.upkeep import restore as put_back

    path, home = Path(file).expanduser().absolute(), options.place()
    note("restore.checking", subject=str(path))
    check_backup(path)
    with _stopped(home):
        done = put_back(home, path, replace=replace)
    if options.json:
        show_json(done)
        return
    tell("restore.done", home=str(home.path), made_at=moment(done["made_at"]),
         kinds=_counts(done["kinds"]), events=done["rows"]["events"])  # fmt: skip
    if done["database"]:
        tell("restore.in-database", subject=done["database"])
    if done["aside"]:
        tell("restore.aside", path=done["aside"])
    for each in done["missing"]:
        tell("restore.missing", subject=each["model"], digest=each["digest"],
             source=each["source"])  # fmt: skip
    tell("next.restore", home=str(home.path))


@contextmanager
def _stopped(home: Home) -> Iterator[None]:
    """Hold a home on which nothing runs; make it if it is not there."""
    try:
        home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Rejected("up.home-unusable", str(home.path), cause=error.strerror or "") from error
    with background.alone(home, TURN_S):
        if pid := background.holder(home):
            raise Conflict("restore.running", str(home.path), pid=pid)
        yield
