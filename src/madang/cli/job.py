"""`madang submit`, `watch`, `cancel`, `suspend`, `resume`: work that ends."""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from madang.answers import Course
from madang.cli.kinds import naming, thing
from madang.cli.options import DEFAULTS, Options
from madang.cli.output import next_step, phase, reason, say, show_json, tell, word
from madang.client import Client
from madang.errors import NotFound, Rejected, Unavailable

LOOK_S = 1.0
OVER = frozenset({"succeeded", "failed", "cancelled"})
BAR_COLUMNS = 30
CHART_COLUMNS = 48
SERIES_MAX = 8
"""So many metrics are drawn, in the order of their names."""
BLOCKS = "▁▂▃▄▅▆▇█"


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
    nodes: PositiveInt = 1
    """How many nodes, all or none."""
    ranks: Annotated[PositiveInt | None, Parameter(show_default=False)] = None
    """How often the program is started on each node [default: once per accelerator]."""
    env: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = ()
    """A variable, as NAME=TEXT; may be given several times."""
    after: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = ()
    """A job that must have succeeded first; may be given several times."""
    stall: Annotated[str, Parameter(show_default=False)] = ""
    """Without a step for so long, as 10m, it is started again [default: learnt]."""
    attempts: Annotated[PositiveInt | None, Parameter(show_default=False)] = None
    """So many in all [default: 20]."""

    def document(self, command: Sequence[str]) -> dict[str, Any]:
        """Return it as people write it in a file."""
        needs = {
            "accelerator": self.accelerator, "count": self.count if self.count > 1 else None,
            "memory": self.memory, "cores": self.cores,
        }  # fmt: skip
        resume = {"stall": self.stall, "attempts": self.attempts}
        written = {
            "kind": "job", "name": self.name or _name(command), "command": list(command),
            "needs": _given(needs), "nodes": self.nodes if self.nodes > 1 else None,
            "ranks": self.ranks, "env": dict(map(_variable, self.env)), "after": list(self.after),
            "resume": _given(resume),
        }  # fmt: skip
        return _given(written)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in (None, "", {}, [])}


def _variable(written: str) -> tuple[str, str]:
    name, equals, text = written.partition("=")
    if not equals:
        raise Rejected("job.bad-variable", written=written)
    return name, text


def _name(command: Sequence[str]) -> str:
    """Return a name from the program, and letters that make it new."""
    program = next((part for part in reversed(command) if part.endswith(".py")), command[0])
    stem = program.rpartition("/")[2].removesuffix(".py").lower()
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in stem).strip("-")[:24]
    return f"{kept.strip('-') or 'job'}-{secrets.token_hex(3)}"


NEW = Wanted()


def submit(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
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
    name = document["name"]
    with options.client() as client:
        planned = client.apply([document], dry_run=False)
        if options.json and not follow:
            show_json(planned)
        if not options.json:
            tell("job.submitted", job=name)
        if follow:
            return _watch(client, name, options.json)
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
    """Let a suspended job go on from its last checkpoint.

    Parameters
    ----------
    what
        job/NAME, or job with NAME after it.
    name
        The name, where it was not given with the kind.
    """
    _change(what, name, options, "job.resume-asked", suspend=False)


def _change(what: str, name: str | None, options: Options, said: str, **wish: bool) -> None:
    """Apply a job as it is but for one wish."""
    _, name = thing(what if "/" in what or name else f"job/{what}", name, ("job",))
    with options.client() as client, naming(client, "job", name):
        document = {**client.get("job", name)["spec"], "kind": "job", "name": name, **wish}
        done = client.apply([document], dry_run=False)
    if options.json:
        show_json(done)
    else:
        tell(said, job=name)


def watch(what: str, name: str | None = None, /, *, options: Options = DEFAULTS) -> int:
    """Show how far a job is, and its metrics, until it is over.

    Parameters
    ----------
    what
        job/NAME, or job with NAME after it.
    name
        The name, where it was not given with the kind.
    """
    _, name = thing(what if "/" in what or name else f"job/{what}", name, ("job",))
    with options.client() as client, naming(client, "job", name):
        return _watch(client, name, options.json)


def _watch(client: Client, name: str, as_json: bool) -> int:
    """Show it until it is over; return 0 where it has succeeded."""
    screen, series, told = _Screen(), Series(client, name), ""
    while True:
        now = client.course(name)
        is_over = now["phase"] in OVER
        if as_json:
            line = json.dumps(now)
            if line != told:
                show_json(now, one_line=True)
            told = line
        else:
            series.look()
            screen.show([*lines(now), *series.charts()], is_last=is_over)
        if is_over:
            return 0 if now["phase"] == "succeeded" else 1
        time.sleep(LOOK_S)


def lines(now: Course) -> Iterator[str]:
    """Say in words where a job is."""
    yield word(
        "watch.job", job=now["name"], phase=phase(now["phase"]), attempt=now["attempt"],
        attempts=now["attempts"],
    )  # fmt: skip
    if why := reason(now["reason"], f"job/{now['name']}"):
        yield f"  {why}"
    if now["cause"] and now["phase"] not in OVER:
        yield "  " + word("watch.last", cause=reason(now["cause"], f"job/{now['name']}"))
    if now["step"] >= 0:
        yield "  " + _bar(now)
    if now["goodput"] is not None:
        lost = word("watch.lost", seconds=f"{now['lost_s']:.0f}", percent=f"{now['goodput']:.1%}")
        saved = word("watch.saved", step=now["saved_step"]) if now["saved_step"] >= 0 else ""
        yield "  " + "  ".join(filter(None, (saved, lost)))
    for rank in now["ranks"]:
        if rank["quiet_s"] > LOUD_S or rank["exit_code"] is not None:
            yield "  " + word(
                "watch.rank", rank=rank["rank"], node=rank["node"], step=rank["step"],
                seconds=f"{rank['quiet_s']:.0f}",
                exit_code="" if rank["exit_code"] is None else rank["exit_code"],
            )  # fmt: skip


LOUD_S = 10.0
"""A rank is told of that has said nothing for longer."""


def _bar(now: Course) -> str:
    step, total = now["step"], now["total"]
    if not total:
        return word("watch.step", step=step)
    full = min(BAR_COLUMNS, BAR_COLUMNS * step // total)
    bar = "█" * full + "░" * (BAR_COLUMNS - full)
    left = "" if now["left_s"] is None else word("watch.left", seconds=f"{now['left_s']:.0f}")
    return f"{bar} {step}/{total}  {left}".rstrip()


class Series:
    """The metrics of rank 0, as they came."""

    def __init__(self, client: Client, name: str) -> None:
        self._client, self._name = client, name
        self._attempt, self._after = 0, 0
        self._values: dict[str, list[float]] = {}

    def look(self) -> None:
        """Take in what is new; a later attempt begins anew behind what there is."""
        try:
            told = self._client.progress(self._name, 0, self._after)
        except (NotFound, Unavailable, Rejected):
            return
        if told["attempt"] != self._attempt:
            is_first, self._attempt, self._after = not self._attempt, told["attempt"], 0
            if not is_first or told["next"] == 0:
                return
        self._after = told["next"]
        for line in told["lines"]:
            self._take(line)

    def _take(self, line: str) -> None:
        try:
            metrics = json.loads(line).get("metrics", {}).items()
        except (ValueError, AttributeError):
            return
        for name, value in metrics:
            if isinstance(value, int | float) and abs(value) < float("inf"):
                self._values.setdefault(str(name), []).append(float(value))

    def charts(self) -> Iterator[str]:
        """Draw each metric as one line of blocks, from its lowest to its highest."""
        for name in sorted(self._values)[:SERIES_MAX]:
            values = self._values[name]
            yield f"  {name:<10} {chart(values)} {values[-1]:.4g}"


def chart(values: Sequence[float], columns: int = CHART_COLUMNS) -> str:
    """Draw values as blocks, the means of equally many where there are more than columns.

    >>> chart([0, 1, 2, 3, 4, 5, 6, 7])
    '▁▂▃▄▅▆▇█'
    """
    if len(values) > columns:
        cuts = [len(values) * i // columns for i in range(columns + 1)]
        parts = [values[a:b] for a, b in pairwise(cuts)]
        values = [sum(part) / len(part) for part in parts]
    low, high = min(values), max(values)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((value - low) * scale)] for value in values)


class _Screen:
    """Lines over the ones before; one after the other where nobody looks at a terminal."""

    def __init__(self) -> None:
        self._shown: list[str] = []

    def show(self, now: Sequence[str], *, is_last: bool) -> None:
        """Show these lines now."""
        if sys.stdout.isatty():
            if self._shown:
                sys.stdout.write(f"\033[{len(self._shown)}A\033[J")
            for line in now:
                say(line)
        elif is_last or list(now[:3]) != self._shown[:3]:
            say("\n".join(now))
        self._shown = list(now)
