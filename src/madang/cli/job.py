"""`madang submit`, `watch`, `cancel`, `suspend`, `resume`: work that ends."""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from madang.answers import Course, SweepCourse
from madang.cli import sweep as sweeps
from madang.cli.code import names_a_file, pack, send
from madang.cli.course import OVER, Series, lines
from madang.cli.kinds import naming, thing
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import clipped, next_step, note, phase, say, show_json, tell
from madang.client import Client
from madang.errors import Rejected, Unavailable

T = TypeVar("T")

LOOK_S = 1.0
BACK_S = 60.0
"""How long control may be away; jobs go on without it."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Wanted:
    """What the job is, and what each of its nodes must have."""

    name: str = ""
    """What it is called [default: the program, and a few letters]."""
    accelerator: Annotated[str, Parameter(show_default=False)] = ""
    """A kind or the start of one, as nvidia/h100 [default: processors]."""
    count: PositiveInt = 1
    """Accelerators of each node."""
    memory: Annotated[str, Parameter(show_default=False)] = ""
    """Of each accelerator, as 24GB [default: it is given whole]."""
    cores: Annotated[float | None, Parameter(show_default=False)] = None
    """Processors of each node that are kept for it."""
    needs: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = ()
    """The same as in a file, and all else that may stand there: host_memory=4GB,cores=2."""
    nodes: PositiveInt = 1
    """How many nodes, all or none."""
    ranks: Annotated[PositiveInt | None, Parameter(show_default=False)] = None
    """How often the program is started on each node [default: once per accelerator]."""
    env: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = ()
    """A variable, as NAME=TEXT; may be given several times."""
    after: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = ()
    """A job that must have succeeded first; may be given several times."""
    sweep: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = ()
    """Values to try, as lr=1e-3,3e-4: a job for each combination; may be given several times."""
    parallel: Annotated[PositiveInt | None, Parameter(show_default=False)] = None
    """So many jobs of a sweep at once [default: all]."""
    priority: Literal["low", "normal", "high"] = "normal"
    """What it counts for where there is not room for all; high is for operators."""
    stall: Annotated[str, Parameter(show_default=False)] = ""
    """Without a step for so long, as 10m, it is started again [default: learnt]."""
    attempts: Annotated[PositiveInt | None, Parameter(show_default=False)] = None
    """So many in all [default: 20]."""
    mount: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = ()
    """A volume or model, as /data=volume://NAME; may be given several times."""
    secret: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = ()
    """A secret that a variable gets, as VARIABLE=NAME; may be given several times."""
    code: Annotated[Path | None, Parameter(show_default=False, negative=())] = None
    """The folder that goes along [default: this one, if the command names something in it]."""
    no_code: Annotated[bool, Parameter(negative=())] = False
    """Take no folder along."""

    def folder(self, command: Sequence[str]) -> Path | None:
        """Return the folder that goes along."""
        here = Path()
        is_named = not self.code and names_a_file(command, here)
        return None if self.no_code else self.code or (here if is_named else None)

    def document(self, command: Sequence[str]) -> dict[str, Any]:
        """Return it as people write it in a file."""
        pairs = [pair for said in self.needs for pair in said.split(",")]
        needs = {
            "accelerator": self.accelerator, "count": self.count if self.count > 1 else None,
            "memory": self.memory, "cores": self.cores,
        } | {key: _value(text) for key, text in map(_variable, pairs)}  # fmt: skip
        resume = {"stall": self.stall, "attempts": self.attempts}
        written = {
            "kind": "job", "name": self.name or _name(command), "command": list(command),
            "needs": _given(needs), "nodes": self.nodes if self.nodes > 1 else None,
            "ranks": self.ranks, "env": dict(map(_variable, self.env)), "after": list(self.after),
            "resume": _given(resume), "sweep": sweeps.swept(self.sweep), "parallel": self.parallel,
            "mounts": dict(map(_variable, self.mount)),
            "priority": self.priority if self.priority != "normal" else None,
            "secrets": dict(map(_variable, self.secret)),
        }  # fmt: skip
        return _given(written)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in (None, "", {}, [])}


def _variable(written: str) -> tuple[str, str]:
    name, equals, text = written.partition("=")
    if not equals:
        raise Rejected("job.bad-variable", written=written)
    return name, text


def _value(text: str) -> float | str:
    """Return the number that it is written as, as a file would have it; else the text."""
    for number in (int, float):
        with suppress(ValueError):
            return number(text)
    return text


def _name(command: Sequence[str]) -> str:
    """Return a name from the program, and letters that make it new."""
    program = next((part for part in reversed(command) if part.endswith(".py")), command[0])
    stem = program.rpartition("/")[2].removesuffix(".py").lower()
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in stem).strip("-")[:24]
    return f"{kept.strip('-') or 'job'}-{secrets.token_hex(3)}"


NEW = Wanted()


def submit(
    *command: str,
    wanted: Wanted = NEW,
    follow: Annotated[bool, Parameter(name=("--follow", "-f"), negative=())] = False,
    options: Options = DEFAULTS,
) -> int:
    """Run a program as a job, as in: madang submit --count 2 -- python train.py.

    Parameters
    ----------
    command
        The program and its arguments, behind --.
    follow
        Watch it until it is over.
    """
    if not command:
        raise Rejected("job.no-program")
    document = wanted.document(command)
    name, folder = document["name"], wanted.folder(command)
    with options.client() as client:
        if folder is not None:
            program = pack(folder)
            send(client, program)
            document["code"] = program.digest
        planned = client.apply([document], dry_run=False)
        if options.json and not follow:
            show_json(planned)
        if not options.json:
            tell("job.submitted", job=name)
        if follow:
            return _follow(client, name, options.json)
    if not options.json:
        next_step("next.watch", job=name)
    return 0


def cancel(what: str, name: str | None = None, /, *, options: Options = DEFAULTS) -> None:
    """End a job, and don't try it again; what it saved stays.

    Parameters
    ----------
    what
        job/NAME, or job with NAME after it.
    name
        The name, where it was not given with the kind.
    """
    _change(what, name, options, "job.cancel-asked", cancel=True)


def suspend(what: str, name: str | None = None, /, *, options: Options = DEFAULTS) -> None:
    """Have a job save, and hold nothing until it is resumed.

    Parameters
    ----------
    what
        job/NAME, or job with NAME after it.
    name
        The name, where it was not given with the kind.
    """
    _change(what, name, options, "job.suspend-asked", suspend=True)


def resume(what: str, name: str | None = None, /, *, options: Options = DEFAULTS) -> None:
    """Let a suspended job go on from its last checkpoint, or a service have its replicas again.

    Parameters
    ----------
    what
        job/NAME or service/NAME, or the kind with NAME after it.
    name
        The name, where it was not given with the kind.
    """
    what = what if "/" in what or name else f"job/{what}"
    kind, name = thing(what, name, ("job", "service"))
    with options.client() as client, naming(client, kind, name):
        done = client.resume(kind, name)
    if options.json:
        show_json(done)
    elif kind == "service":
        tell("service.resume-asked", service=name)
    else:
        is_over = done["status"]["phase"] in OVER
        said = "job.over" if is_over else "job.resume-asked"
        tell(said, job=name, phase=phase(done["status"]["phase"]))


def _change(what: str, name: str | None, options: Options, said: str, **wish: bool) -> None:
    """Apply a job as it is but for one wish."""
    _, name = thing(what if "/" in what or name else f"job/{what}", name, ("job",))
    with options.client() as client, naming(client, "job", name):
        job = client.get("job", name)
        document = {**job["spec"], "kind": "job", "name": name, **wish}
        done = client.apply([document], dry_run=False)
        said = "job.over" if job["status"]["phase"] in OVER else said
    if options.json:
        show_json(done)
    else:
        tell(said, job=name, phase=phase(job["status"]["phase"]))


def watch(
    what: str,
    name: str | None = None,
    /,
    *,
    best: Annotated[str, Parameter(show_default=False)] = "",
    options: Options = DEFAULTS,
) -> int:
    """Show how far a job is, and its metrics, until it is over.

    Parameters
    ----------
    what
        job/NAME, or job with NAME after it.
    name
        The name, where it was not given with the kind.
    best
        Of a sweep, its jobs by this metric, the lowest first; max:NAME for the highest first.
    """
    _, name = thing(what if "/" in what or name else f"job/{what}", name, ("job",))
    with options.client() as client, naming(client, "job", name):
        return _follow(client, name, options.json, best)


def _follow(client: Client, name: str, as_json: bool, best: str = "") -> int:
    """Watch a job or a sweep."""
    if not client.get("job", name)["spec"]["sweep"]:
        return _watch(client, name, as_json)
    screen = _Screen()
    try:
        while True:
            now = _patiently(lambda: client.sweep(name))
            is_over = now["phase"] in OVER
            if as_json:
                jobs = sweeps.ranked(now["jobs"], best)
                screen.tell_json(SweepCourse(**{**now, "jobs": jobs}))
            else:
                news = (now["phase"], now["counts"], now["reason"])
                screen.tell([*sweeps.lines(now, best)], news, is_last=is_over)
            if is_over:
                return 0 if now["phase"] == "succeeded" else 1
            time.sleep(LOOK_S)
    except KeyboardInterrupt:
        note("watch.left-alone", job=name)
        raise


def _watch(client: Client, name: str, as_json: bool) -> int:
    """Show it until it is over; return 0 where it has succeeded."""
    screen, series = _Screen(), Series(client, name)
    try:
        while True:
            now = _patiently(lambda: client.course(name))
            is_over = now["phase"] in OVER
            if as_json:
                screen.tell_json(now)
            else:
                series.look()
                screen.show(now, series, is_last=is_over)
            if is_over:
                return 0 if now["phase"] == "succeeded" else 1
            time.sleep(LOOK_S)
    except KeyboardInterrupt:
        note("watch.left-alone", job=name)
        raise


def _patiently(look: Callable[[], T]) -> T:
    """Return where something is; wait for a control that is just starting anew."""
    until = time.monotonic() + BACK_S
    while True:
        try:
            return look()
        except Unavailable:
            if time.monotonic() > until:
                raise
            time.sleep(LOOK_S)


class _Screen:
    """Lines over the ones before; where nobody looks at a terminal, only what is news."""

    def __init__(self) -> None:
        self._rows = 0
        self._news: object = None

    def show(self, now: Course, series: Series, *, is_last: bool) -> None:
        """Show where a job is."""
        if sys.stdout.isatty():
            self._paint([*lines(now), *series.charts()], is_last)
            return
        codes = [rank["exit_code"] for rank in now["ranks"]]
        news = (now["phase"], now["attempt"], now["saved"], now["reason"], codes)
        if is_last or news != self._news:
            told = now if is_last else Course(**{**now, "history": now["history"][-1:]})
            say("\n".join([*lines(told), *(series.charts() if is_last else ())]))
        self._news = news

    def tell(self, told: Sequence[str], news: object, *, is_last: bool) -> None:
        """Show lines: over the ones before, or where there is news."""
        if sys.stdout.isatty():
            self._paint(told, is_last)
        elif is_last or news != self._news:
            say("\n".join(told))
        self._news = news

    def tell_json(self, now: Course | SweepCourse) -> None:
        """Print it as one line, unless it is the one before."""
        if (line := json.dumps(now)) != self._news:
            show_json(now, one_line=True)
        self._news = line

    def _paint(self, told: Sequence[str], is_last: bool) -> None:
        size = shutil.get_terminal_size()
        shown = [clipped(line, size.columns) for line in told]
        if self._rows:
            sys.stdout.write(f"\033[{self._rows}A\033[J")
        shown = shown if is_last else shown[: size.lines - 1]
        self._rows = len(shown)
        say("\n".join(shown))
