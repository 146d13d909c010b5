"""`madang twin`: what would happen, by the very code that decides."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import App, Parameter

from madang.answers import Json
from madang.cli.output import note, say_over, show_json, table, word
from madang.errors import Rejected

LOAD_MAX = 10.0
MOVES_MAX = 100
WATTS_MAX = 100.0

twin = App(name="twin", help=word("help.twin"), help_format="plaintext")
twin.command("madang.cli.record:record", name="record", help=word("help.twin-record"))
twin.command("madang.cli.record:replay", name="replay", help=word("help.twin-replay"))
twin.command("madang.cli.queue:queue", name="queue", help=word("help.twin-queue"))
twin.command("madang.cli.routing:routing", name="routing", help=word("help.twin-routing"))
twin.command("madang.cli.whatif:whatif", name="whatif", help=word("help.twin-whatif"))


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Trace:
    """What comes, and where to."""

    nodes: str
    """CSV of nodes: sn, cpu_milli, memory_mib, gpu, model. May be gzipped."""
    pods: str
    """CSV of arrivals: name, cpu_milli, memory_mib, num_gpu, gpu_milli[, gpu_spec,
    creation_time]."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be compared."""

    policy: str = "madang,fgd,best-fit"
    """Names, separated by commas; also dot-product, packing, clustering and random."""
    seeds: str = "42..44"
    """Seeds of the shuffles: 42..51, or 1,5,9."""
    load: float = 1.3
    """How much is asked for in the end, as a part of the fleet's devices."""
    mix: Literal["known", "online"] = "known"
    """known: policies are told the whole list; online: they learn from what has come."""
    order: Literal["shuffled", "time"] = "shuffled"
    """shuffled by each seed, or in order of time."""
    moves: int = 0
    """How many running ones our policy may move for every 100 arrivals."""
    watts: float = 0.0
    """What a watt less is worth to our policy, in thousandths of a device; 1 saves most."""


ASKED = Asked()
HEAD = (
    "twin.head.policy", "twin.head.at-100", "twin.head.at-130", "twin.head.fgd", "twin.head.moves",
    "twin.head.power", "twin.head.speed",
)  # fmt: skip


@twin.command
def placement(
    *,
    trace: Trace,
    asked: Asked = ASKED,
    json: Annotated[bool, Parameter(negative=())] = False,
    plot: str = "",
) -> None:
    """Replay a list of arrivals on a fleet, and say how much of it each policy fills.

    Parameters
    ----------
    json
        Print one JSON object by policy, and nothing else.
    plot
        An SVG file to draw allocation by load into.
    """
    from madang.twin.arrivals import seeds_of
    from madang.twin.placement import Question, Replay, report
    from madang.twin.plot import check_place, draw, save
    from madang.twin.policies import Ours
    from madang.twin.trace import opened, read_fleet, read_pods

    _bound("load", asked.load, 0.0, LOAD_MAX)
    _bound("moves", asked.moves, 0, MOVES_MAX)
    _bound("watts", asked.watts, 0.0, WATTS_MAX)
    names = tuple(name.strip() for name in asked.policy.split(",") if name.strip())
    question = Question(
        names,
        seeds_of(asked.seeds),
        asked.load,
        asked.mix,
        asked.order,
        Ours(asked.moves, asked.watts),
    )
    if plot:
        check_place(plot)
    with opened(trace.nodes) as lines:
        fleet = read_fleet(lines, trace.nodes)
    with opened(trace.pods) as lines:
        arrivals = read_pods(lines, trace.pods, fleet.kinds)
    outcomes = Replay(fleet, arrivals, question, time.process_time, _tell).run()
    if plot:
        save(plot, draw({name: runs[0].curve for name, runs in outcomes.items()}))
        note("twin.plotted", subject=plot)
    answer = report(outcomes)
    if json:
        show_json(answer)
    else:
        _show(answer)


def _bound(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most or (name == "load" and not value):
        raise Rejected("twin.out-of-bounds", subject=f"--{name}", least=least, most=most)


def _tell(name: str, seed: int, done: int, total: int) -> None:
    if done and not sys.stderr.isatty():
        return
    say_over(word("twin.progress", subject=name, seed=seed, done=done, total=total), is_last=False)


def _show(answer: Mapping[str, Json]) -> None:
    say_over("", is_last=True)
    rows = [
        [
            name,
            _spread(found["allocated_at_100"]),
            _spread(found["allocated_at_130"]),
            _spread(found.get("to_fgd_at_100")),
            _spread(found["moves"], 0),
            _spread(found["power_kw"]["80"], 0),
            f"{found['decisions_per_cpu_s']:,}",
        ]
        for name, found in answer.items()
    ]
    table(HEAD, rows)


def _spread(found: Json | None, digits: int = 2) -> str:
    if not found:
        return "–"
    sd = f" ±{found['sd']:.{digits}f}" if found["sd"] else ""
    return f"{found['mean']:.{digits}f}{sd}"
