"""Where a job is, in words and blocks: what `madang watch` and `madang explain` show."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise

from madang.answers import Course, PastAttempt, RankCourse
from madang.cli.output import padded, phase, reason, size, span, width_of, word
from madang.client import Client
from madang.errors import NotFound, Rejected, Unavailable, Value

OVER = frozenset({"succeeded", "failed", "cancelled"})
BAR_COLUMNS = 30
CHART_COLUMNS = 48
SERIES_MAX = 8
"""So many metrics are drawn, in the order of their names."""
VALUES_MAX = 4096
"""So many values are kept of each; then two and two become one."""
LOOKS_MAX = 64
"""How often what a rank has said is asked for in one turn, a quarter of a megabyte each."""
LOUD_S = 10.0
"""A rank is told of that has said nothing for longer."""
RANKS_TOLD = 8
BLOCKS = "▁▂▃▄▅▆▇█"


def lines(now: Course) -> Iterator[str]:
    """Say in words where a job is, and why if it is not on its way."""
    where = ", ".join(dict.fromkeys(rank["node"] for rank in now["ranks"]))
    yield word(
        "watch.job", job=now["name"], phase=phase(now["phase"]), attempt=now["attempt"],
        attempts=now["attempts"],
    ) + (f"  {where}" if where else "")  # fmt: skip
    if why := reason(now["reason"], f"job/{now['name']}"):
        yield f"  {why}"
    for line in body(now):
        yield f"  {line}"


def body(now: Course) -> Iterator[str]:
    """Say how far it is, what it has saved and lost, which ranks stand out, and what was before."""
    if now["step"] >= 0:
        yield _bar(now)
    if now["goodput"] is not None:
        yield "  ".join(filter(None, (_saved(now), _lost(now))))
    if now["save_every_s"] and now["phase"] not in OVER:
        yield _cadence(now)
    yield from _ranks(now["ranks"])
    for attempt in now["history"]:
        if now["phase"] not in OVER or attempt["number"] < now["attempt"]:
            yield _past(attempt, now["name"])


def _bar(now: Course) -> str:
    step, total = now["step"], now["total"]
    doing = next((rank["phase"] for rank in now["ranks"] if rank["phase"]), "")
    if not total:
        return "  ".join(filter(None, (word("watch.step", step=step), doing)))
    full = min(BAR_COLUMNS, BAR_COLUMNS * step // total)
    bar = "█" * full + "░" * (BAR_COLUMNS - full)
    left = "" if now["left_s"] is None else word("watch.left", time=span(now["left_s"]))
    return "  ".join(filter(None, (f"{bar} {step}/{total}", left, doing)))


def _saved(now: Course) -> str:
    if not now["saved"]:
        return ""
    values = {"checkpoint": now["saved"], "size": size(now["saved_bytes"])}
    return word("watch.saved", step=now["saved_step"], **values)


def _lost(now: Course) -> str:
    percent = f"{now['goodput'] or 0.0:.1%}"
    return word(
        "watch.lost", time=span(now["lost_s"]), whole=span(now["run_s"]), percent=percent
    )  # fmt: skip


def _cadence(now: Course) -> str:
    """Say how often it is asked to save, and why just so."""
    cost = word("watch.cost", seconds=f"{now['write_s']:.3g}") if now["write_s"] else ""
    hours = f"{now['pool_run_s'] / 3600:,.1f}"
    return word(
        "watch.cadence", every=span(now["save_every_s"]), cost=cost or word("watch.no-cost"),
        pool=now["pool"], faults=now["pool_faults"], hours=hours,
    )  # fmt: skip


def _ranks(ranks: Sequence[RankCourse]) -> Iterator[str]:
    """Tell of ranks together, and of those by themselves that have ended or say nothing."""
    if len(ranks) > 1:
        steps = sorted({rank["step"] for rank in ranks if rank["step"] >= 0})
        of = f"{steps[0]}–{steps[-1]}" if len(steps) > 1 else str(*steps)
        alive = sum(rank["exit_code"] is None for rank in ranks)
        yield word("watch.ranks", alive=alive, ranks=len(ranks), steps=of or "–")
    odd = [r for r in ranks if r["exit_code"] is not None or r["quiet_s"] > LOUD_S]
    for rank in odd[:RANKS_TOLD]:
        yield _rank(rank)
    if len(odd) > RANKS_TOLD:
        yield word("watch.more-ranks", ranks=len(odd) - RANKS_TOLD)


def _rank(rank: RankCourse) -> str:
    code = rank["exit_code"]
    values: dict[str, Value] = {
        "rank": rank["rank"],
        "node": rank["node"],
        "step": max(0, rank["step"]),
    }
    if code is None:
        values |= {"time": span(rank["quiet_s"]), "doing": rank["phase"]}
        return word("watch.rank-quiet", **values).rstrip()
    if code < 0:
        return word("watch.rank-killed", signal=-code, **values)
    return word("watch.rank-ended", exit_code=code, **values)


def _past(attempt: PastAttempt, job: str) -> str:
    return word(
        "watch.past", attempt=attempt["number"], nodes=", ".join(attempt["nodes"]),
        first=attempt["first_step"], step=max(attempt["step"], attempt["first_step"]),
        time=span(attempt["run_s"]), cause=reason(attempt["cause"], f"job/{job}"),
    )  # fmt: skip


class Series:
    """The metrics of rank 0, as they came."""

    def __init__(self, client: Client, name: str) -> None:
        self._client, self._name = client, name
        self._attempt, self._after = 0, 0
        self._values: dict[str, list[float]] = {}
        self._last: dict[str, float] = {}

    def look(self) -> None:
        """Take in what is new; a later attempt goes on behind what there is."""
        for _ in range(LOOKS_MAX):
            if not self._look():
                return

    def _look(self) -> bool:
        """Take the next part, and tell whether there may be more."""
        try:
            told = self._client.progress(self._name, 0, self._after)
        except (NotFound, Unavailable, Rejected):
            return False
        if told["attempt"] != self._attempt:
            is_first, self._attempt, self._after = not self._attempt, told["attempt"], 0
            if not is_first:
                return True
        is_new, self._after = told["next"] > self._after, told["next"]
        for line in told["lines"]:
            self._take(line)
        return is_new

    def _take(self, line: str) -> None:
        try:
            metrics = json.loads(line).get("metrics", {}).items()
        except (ValueError, AttributeError):
            return
        for name, value in metrics:
            if isinstance(value, int | float) and abs(value) < float("inf"):
                values = self._values.setdefault(str(name), [])
                values.append(float(value))
                self._last[str(name)] = float(value)
                if len(values) > VALUES_MAX:
                    values[:] = _fewer(values, VALUES_MAX // 2)

    def charts(self) -> Iterator[str]:
        """Draw each metric as one line of blocks, from its lowest to its highest."""
        names = sorted(self._values)[:SERIES_MAX]
        columns = max(map(width_of, names), default=0)
        for name in names:
            values = self._values[name]
            low, high = min(values), max(values)
            told = word("watch.metric", value=f"{self._last[name]:.4g}", low=f"{low:.4g}",
                        high=f"{high:.4g}")  # fmt: skip
            yield f"  {padded(name, columns)}  {chart(values)}  {told}"


def chart(values: Sequence[float], columns: int = CHART_COLUMNS) -> str:
    """Draw values as blocks, the means of equally many where there are more than columns.

    >>> chart([0, 1, 2, 3, 4, 5, 6, 7])
    '▁▂▃▄▅▆▇█'
    """
    values = _fewer(values, columns)
    low, high = min(values), max(values)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((value - low) * scale)] for value in values)


def _fewer(values: Sequence[float], most: int) -> Sequence[float]:
    """Return at most so many values, each the mean of neighbours."""
    if len(values) <= most:
        return values
    cuts = [len(values) * i // most for i in range(most + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
