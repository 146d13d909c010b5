"""`madang twin queue`: how long jobs would wait, and who would go short, by each way to queue."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from madang.answers import Json
from madang.cli.output import note, say_over, show_json, table, word
from madang.errors import Rejected, Unfit

GPUS_MAX = 1_000_000
BUDGET_LEAST, BUDGET_MOST = 0.01, 1.0
HEAD = (
    "twin.head.policy", "twin.head.jct", "twin.head.p95-wait", "twin.head.max-wait",
    "twin.head.unfair", "twin.head.worst", "twin.head.preemptions", "twin.head.redone",
    "twin.head.used",
)  # fmt: skip


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be compared."""

    policy: str = "madang,fifo,easy,las,wfs,srtf"
    """Names, separated by commas; easy and srtf are told every duration, the others none."""
    checkpoint: str = "30m"
    """Running time between two checkpoints: work since the last is done again; 0 loses none."""
    restart: str = "60s"
    """Time until a job that was stopped is back at work."""
    budget: float = 0.13
    """Part of its share that a project may go short of before ours guarantees it all."""
    plot: str = ""
    """An SVG file to draw into: how long jobs waited, and the mean against the worst project."""


ASKED = Asked()


def queue(
    *, jobs: Annotated[str, Parameter(allow_leading_hyphen=True)], gpus: int, asked: Asked = ASKED,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:  # fmt: skip
    """Replay a list of jobs on so many accelerators, and say how long each policy has them wait.

    Accelerators are counted, not placed; projects weigh the same.

    Parameters
    ----------
    jobs
        CSV: arrival_s, tenant, gpus, duration_s (or duration_v100_s); or timestamp, duration,
        num_gpus, cluster. Seconds, or a date and time. May be gzipped; - is standard input.
    gpus
        Accelerators there are.
    json
        Print one JSON object by policy, and nothing else.
    """
    from madang.twin.jobs import read_jobs
    from madang.twin.plot import check_place, save
    from madang.twin.queue import Yard
    from madang.twin.trace import opened
    from madang.twin.waits import played, told, waits_h
    from madang.twin.waits_plot import draw

    for name, value, least, most in (
        ("--gpus", gpus, 1, GPUS_MAX), ("--budget", asked.budget, BUDGET_LEAST, BUDGET_MOST),
    ):  # fmt: skip
        if not least <= value <= most:
            raise Rejected("twin.out-of-bounds", subject=name, least=least, most=most)
    yard = Yard(
        gpus, _span_s("--checkpoint", asked.checkpoint), _span_s("--restart", asked.restart)
    )
    names = tuple(name.strip() for name in asked.policy.split(",") if name.strip())
    if asked.plot:
        check_place(asked.plot)
    with opened(jobs) as lines:
        listed = read_jobs(lines, jobs)
    answer: dict[str, Json] = {}
    waits = {}
    for name, found in played(listed, yard, names, _tell, asked.budget):
        answer[name], waits[name] = told(found), waits_h(found)
    if asked.plot:
        heads = word("twin.plot.waits"), word("twin.plot.worth")
        save(asked.plot, draw(waits, answer, heads))
        note("twin.plotted", subject=asked.plot)
    if json:
        show_json(answer)
    else:
        _show(answer, gpus)


def _span_s(name: str, written: str) -> float:
    from madang.resources.quantity import duration_s

    try:
        return duration_s(written)
    except Unfit as error:
        raise Rejected("twin.bad-span", subject=name, **error.why()) from error


def _tell(name: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        say_over(word("twin.queue-progress", subject=name, done=done, total=total), is_last=False)


def _show(answer: Mapping[str, Json], gpus: int) -> None:
    if sys.stderr.isatty():
        say_over("", is_last=True)
    if left_out := max((found["left_out"] for found in answer.values()), default=0):
        note("twin.left-out", count=left_out, accelerators=gpus)
    rows = [
        [
            name,
            f"{found['mean_jct_h']:.2f}",
            f"{found['p95_wait_h']:.2f}",
            f"{found['max_wait_h']:.1f}",
            f"{found['unfair']:.3f}",
            f"{found['worst_project']:.3f}",
            f"{found['preemptions']:,}",
            f"{100 * found['redone_share']:.2f} %",
            "–" if found["utilisation"] is None else f"{100 * found['utilisation']:.1f} %",
        ]
        for name, found in answer.items()
    ]
    table(HEAD, rows)
