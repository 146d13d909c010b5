"""Replaying a list of arrivals through policies, and saying how much of the fleet each fills."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from madang.answers import Json
from madang.errors import Rejected
from madang.planning.placement.demand import Demand
from madang.planning.placement.fleet import Board, Fleet
from madang.planning.placement.fragmentation import MILLI, Fragmentation
from madang.planning.placement.mix import Mix
from madang.planning.placement.power import watts
from madang.twin.arrivals import in_time, shuffled
from madang.twin.policies import AS_IT_IS, NAMES, Foresight, Ours, Policy, policy
from madang.twin.trace import Pod

LOADS = (100, 130)
"""Percent of the fleet's devices asked for so far, at which allocation is told."""
POWER_LOADS = (20, 40, 60, 80, 100)


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be replayed."""

    policies: tuple[str, ...]
    seeds: tuple[int, ...]
    load: float = 1.3
    mix: str = "known"
    order: str = "shuffled"
    ours: Ours = AS_IT_IS

    def check(self, pods: Sequence[Pod]) -> None:
        """Refuse what can't be replayed."""
        for name in self.policies:
            if name not in NAMES:
                raise Rejected("twin.no-such-policy", subject=name, known=", ".join(NAMES))
        if self.order == "time" and any(pod.created_s < 0 for pod in pods):
            raise Rejected("twin.no-times")
        if not any(pod.milli for pod in pods):
            raise Rejected("twin.no-devices-asked")


@dataclass(slots=True)
class Outcome:
    """What became of one list of arrivals under one policy."""

    curve: dict[int, float] = field(default_factory=dict)
    """Percent of the devices given, by percent asked for: the mean over arrivals, as published."""
    power_kw: dict[int, float] = field(default_factory=dict)
    fragmentation: float = 0.0
    """Whole devices that the mix can't use, at a load of 100 %."""
    moves: int = 0
    failed: int = 0
    arrivals: int = 0
    cpu_s: float = 0.0

    def allocated(self, load: int) -> float | None:
        """Return percent of the devices given at a load; None if it was not reached."""
        known = [at for at in self.curve if at <= load]
        return self.curve[max(known)] if any(at >= load for at in self.curve) else None


class Meter:
    """What is noted while a policy is at work."""

    def __init__(self, fleet: Fleet, measure: Fragmentation) -> None:
        self.capacity_milli = int((fleet.free > 0).sum()) * MILLI
        self._fleet, self._measure = fleet, measure
        self._asked = self._given = 0
        self._at: dict[int, list[float]] = {}
        self.outcome = Outcome()

    def note(self, pod: Pod, board: Board, *, is_placed: bool) -> None:
        """Note one arrival."""
        self._asked += pod.milli
        self._given += pod.milli if is_placed else 0
        self.outcome.failed += not is_placed
        self.outcome.arrivals += 1
        load = round(100 * self._asked / self.capacity_milli)
        self._at.setdefault(load, []).append(100 * self._given / self.capacity_milli)
        for due in POWER_LOADS:
            if due <= load and due not in self.outcome.power_kw:
                self.outcome.power_kw[due] = self._power_kw(board)
                if due == LOADS[0]:
                    self.outcome.fragmentation = self._fragments(board)

    def end(self) -> Outcome:
        """Return what came of it."""
        self.outcome.curve = {load: fmean(seen) for load, seen in self._at.items()}
        return self.outcome

    def _power_kw(self, board: Board) -> float:
        fleet = self._fleet
        used = fleet.cpu_milli - board.cpu_milli
        return watts(fleet.kinds, fleet.kind, board.free, used, fleet.cpu_milli) / 1000

    def _fragments(self, board: Board) -> float:
        total = 0
        for kind, part in enumerate(self._fleet.slices()):
            tables = self._measure.table(kind, board.free[part])
            buckets = self._measure.bucket(board.cpu_milli[part])
            total += int(tables[range(len(buckets)), buckets].sum())
        return total / (MILLI * self._measure.total)


Tell = Callable[[str, int, int, int], None]
"""Of a policy, a seed, arrivals so far and in all."""
TELL_EVERY = 1000


@dataclass(frozen=True)
class Replay:
    """A fleet, a list and a question."""

    fleet: Fleet
    pods: Sequence[Pod]
    question: Question
    cpu_s: Callable[[], float]
    """Seconds of processor time used so far."""
    tell: Tell

    def run(self) -> dict[str, list[Outcome]]:
        """Replay every seed with every policy."""
        self.question.check(self.pods)
        out: dict[str, list[Outcome]] = {name: [] for name in self.question.policies}
        for seed, arrivals in self._lists():
            for name in self.question.policies:
                out[name].append(self._one(name, seed, arrivals))
        return out

    def _lists(self) -> Iterator[tuple[int, list[Pod]]]:
        question = self.question
        capacity = int((self.fleet.free > 0).sum()) * MILLI
        if question.order == "time":
            yield question.seeds[0], in_time(self.pods, capacity, question.load)
            return
        for seed in question.seeds:
            yield seed, shuffled(self.pods, capacity, question.load, seed)

    def _one(self, name: str, seed: int, arrivals: Sequence[Pod]) -> Outcome:
        counts = Counter(pod.demand for pod in self.pods)
        demands = sorted(counts)
        index = {demand: i for i, demand in enumerate(demands)}
        foresight = Foresight(counts if self.question.mix == "known" else None)
        meter = Meter(self.fleet, Fragmentation(Mix.of(counts), self.fleet.kinds))
        chosen = policy(
            name, self.fleet, demands, foresight,
            seed=seed, ours=self.question.ours,
        )  # fmt: skip
        self._feed(name, seed, arrivals, chosen, index, meter)
        outcome = meter.end()
        outcome.moves = chosen.moves
        return outcome

    def _feed(
        self, name: str, seed: int, arrivals: Sequence[Pod],
        chosen: Policy, index: Mapping[Demand, int], meter: Meter,
    ) -> None:  # fmt: skip
        for number, pod in enumerate(arrivals):
            began_s = self.cpu_s()
            is_placed = chosen.arrive(index[pod.demand])
            meter.outcome.cpu_s += self.cpu_s() - began_s
            meter.note(pod, chosen.board, is_placed=is_placed)
            if number % TELL_EVERY == 0:
                self.tell(name, seed, number, len(arrivals))


def report(outcomes: Mapping[str, Sequence[Outcome]]) -> Json:
    """Return the answer by policy."""
    base = outcomes.get("fgd")
    return {name: _summary(runs, base) for name, runs in outcomes.items()}


def _summary(runs: Sequence[Outcome], base: Sequence[Outcome] | None) -> Json:
    cpu_s = sum(run.cpu_s for run in runs)
    out: Json = {
        **{f"allocated_at_{load}": spread([run.allocated(load) for run in runs])
           for load in LOADS},
        "moves": spread([float(run.moves) for run in runs]),
        "arrivals": spread([float(run.arrivals) for run in runs]),
        "failed": spread([float(run.failed) for run in runs]),
        "fragmentation": spread([run.fragmentation for run in runs]),
        "power_kw": {str(load): spread([run.power_kw.get(load) for run in runs])
                     for load in POWER_LOADS},
        "decisions_per_cpu_s": round(sum(run.arrivals for run in runs) / max(cpu_s, 1e-9)),
    }  # fmt: skip
    if base is not None and base is not runs:
        out["to_fgd_at_100"] = spread(
            [_ahead(run, other) for run, other in zip(runs, base, strict=True)]
        )
    return out


def _ahead(run: Outcome, other: Outcome) -> float | None:
    own, theirs = run.allocated(LOADS[0]), other.allocated(LOADS[0])
    return None if own is None or theirs is None else own - theirs


def spread(values: Sequence[float | None]) -> Json | None:
    """Return mean and standard deviation over seeds; None where there is nothing."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    deviation = stdev(known) if len(known) > 1 else 0.0
    return {"mean": round(fmean(known), 3), "sd": round(deviation, 3)}
