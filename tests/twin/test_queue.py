"""`madang twin queue`: known answers on small lists, the public windows, and what holds on any."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madang.cli import main
from madang.errors import Rejected
from madang.planning.share.rule import HOUR_S, RULE
from madang.twin.disciplines import NAMES, Madang, discipline
from madang.twin.jobs import Asked, read_jobs
from madang.twin.queue import Queue, Yard, go_on, play
from madang.twin.waits import compare, told

BENCH = Path(__file__).parents[2] / "bench"
TRACE = BENCH / "traces" / "gavel" / "gavel_philly_jobs.csv.gz"
HEAD = "arrival_s,tenant,gpus,duration_s\n"
TICK_S = RULE.every_s


@pytest.fixture(scope="module")
def window():
    """Return how to cut the public list, as the bench does."""
    sys.path.insert(0, str(BENCH))
    try:
        from philly import window as cut
    finally:
        sys.path.remove(str(BENCH))
    return cut


def quiet(*_: object) -> None:
    """Tell nobody."""


def asked(*rows: tuple[float, float, int, str]) -> list[Asked]:
    return [Asked(*row, name=f"{number:06}") for number, row in enumerate(sorted(rows))]


def played(jobs: list[Asked], gpus: int, policy: str, **yard: float) -> Queue:
    projects = len({job.project for job in jobs})
    return play(jobs, Yard(gpus, **yard), discipline(policy, projects), quiet)


def test_both_forms_of_a_list_say_the_same():
    one = read_jobs([HEAD, "5,a,2,60\n", "0,b,1,30\n"], "one")
    other = read_jobs(
        ["timestamp,duration,num_gpus,cluster\n", "2017-10-09 00:00:05,60,2,a\n",
         "2017-10-09T00:00:00Z,30,1,b\n"], "other",
    )  # fmt: skip
    bare = [(job.came_s, job.runs_s, job.size, job.project) for job in one]
    assert bare == [(0.0, 30.0, 1, "b"), (5.0, 60.0, 2, "a")]
    assert bare == [(job.came_s, job.runs_s, job.size, job.project) for job in other]


def test_durations_are_from_a_second_to_a_fortnight():
    jobs = read_jobs([HEAD, "0,a,1,0\n", "0,b,1,99999999\n"], "x")
    assert [job.runs_s for job in jobs] == [1.0, 14 * 86_400.0]


def test_a_list_of_something_else_is_refused():
    with pytest.raises(Rejected, match="job-columns"):
        read_jobs(["sn,gpu\n"], "nodes.csv")


def test_in_first_come_first_served_nobody_overtakes_and_with_easy_who_delays_nobody():
    jobs = asked((0, 100, 3, "a"), (1, 100, 4, "a"), (2, 50, 1, "a"), (3, 500, 1, "a"))
    assert played(jobs, 4, "fifo").ended_s.tolist() == [100, 200, 250, 700]
    assert played(jobs, 4, "easy").ended_s.tolist() == [100, 200, 52, 700]


def test_who_is_stopped_goes_on_from_its_last_checkpoint_after_a_while():
    jobs = asked((0, 10_000, 1, "a"), (TICK_S * 7 + 1, 60, 1, "b"))
    found = played(jobs, 1, "srtf", checkpoint_s=1800.0, restart_s=60.0)
    stopped_s, ended_s = TICK_S * 8, TICK_S * 8 + 60
    assert found.ended_s.tolist() == [ended_s + 60 + 10_000 - 1800, ended_s]
    assert found.tally.redone == stopped_s - 1800
    free = played(jobs, 1, "srtf", checkpoint_s=0.0, restart_s=0.0)
    assert (free.ended_s[0], free.tally.redone) == (10_060, 0.0)


def test_a_wait_is_what_a_job_took_above_what_it_takes_alone():
    found = told(played(asked((0, 7200, 1, "a"), (0, 3600, 1, "b")), 1, "fifo"))
    assert (found["mean_jct_h"], found["max_wait_h"]) == (2.0, 1.0)


def test_what_a_project_went_short_of_is_told_of_its_share():
    found = told(played(asked((0, 3600, 2, "a"), (0, 3600, 2, "b")), 2, "fifo"))
    # For an hour each may have one; a has both. Then b may have both, and has them.
    assert found["worst_project"] == pytest.approx(1 / 3, abs=1e-3)
    assert found["unfair"] == pytest.approx(1 / 4, abs=1e-3)


def test_utilisation_is_told_of_the_time_in_which_jobs_came():
    found = told(played(asked((0, 100, 1, "a"), (200, 999, 1, "a")), 1, "fifo"))
    assert found["utilisation"] == 0.5


def test_what_asks_for_more_than_there_is_is_left_out_and_counted():
    found = told(played(asked((0, 60, 9, "a"), (0, 60, 1, "a")), 8, "madang"))
    assert (found["jobs"], found["left_out"]) == (1, 1)
    with pytest.raises(Rejected, match="no-jobs"):
        played(asked((0, 60, 9, "a")), 8, "madang")


@pytest.mark.timeout(300)
def test_the_oracle_is_where_it_was_published_and_ours_keeps_its_floors(window):
    found = compare(window(10, 25), Yard(456, 0.0), ("srtf",), quiet)["srtf"]
    assert found["mean_jct_h"] == pytest.approx(36.81, abs=0.02)
    assert found["worst_project"] == pytest.approx(0.086, abs=0.001)
    ours = compare(window(10, 25), Yard(456), ("madang",), quiet)["madang"]
    assert ours["mean_jct_h"] <= 38.5
    assert ours["worst_project"] <= 0.10
    assert ours["redone_share"] <= 0.015


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("days", "gpus", "mean_h", "wait_h"), [
    ((15, 30), 336, 39.1, 130), ((20, 35), 240, 25.0, 270), ((40, 60), 96, 34.5, 450),
])  # fmt: skip
def test_where_nobody_could_be_in_time_age_costs_the_others_little(
    window, days, gpus, mean_h, wait_h
):
    """Of the second and third, first come, first served has somebody wait 129 and 213 h as well."""
    ours = compare(window(*days), Yard(gpus), ("madang",), quiet)["madang"]
    assert ours["mean_jct_h"] <= mean_h
    assert ours["max_wait_h"] <= wait_h
    assert ours["worst_project"] <= 0.13
    assert ours["redone_share"] <= 0.015


def a_list(seed: int, count: int = 60) -> list[Asked]:
    chance = random.Random(seed)
    return asked(*[(chance.choice((0.0, chance.random() * 1e5)),
                    min(1e5, chance.lognormvariate(7, 2)),
                    chance.choice((1, 1, 2, 4, 8)), chance.choice("abc"))
                   for _ in range(count)])  # fmt: skip


@settings(derandomize=True, max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(NAMES))
def test_whatever_comes_every_job_ends_and_all_work_is_done(seed, policy):
    jobs = a_list(seed)
    found = played(jobs, 8, policy)
    assert np.isfinite(found.ended_s).all()
    assert found.free == 8
    assert (found.held.any(), found.demand.any(), found.waiting) == (False, False, 0)
    assert (found.ended_s - found.came_s >= found.runs_s - 1e-6).all()


@settings(derandomize=True, max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_the_order_of_rows_changes_nothing(seed):
    jobs = a_list(seed)
    rows = [f"{job.came_s!r},{job.project},{job.size},{job.runs_s!r}\n" for job in jobs]
    shuffled = random.Random(seed).sample(rows, len(rows))
    yard = Yard(16)
    assert compare(read_jobs([HEAD, *rows], "x"), yard, NAMES, quiet) == compare(
        read_jobs([HEAD, *shuffled], "x"), yard, NAMES, quiet
    )


class Watched(Madang):
    """Ours, and what it did."""

    def __init__(self, projects: int) -> None:
        super().__init__(projects)
        self.stops: dict[int, list[float]] = {}
        self.held_s = np.zeros(projects)

    def pass_time(self, queue: Queue, seconds: float) -> None:
        super().pass_time(queue, seconds)
        self.held_s += queue.held * seconds

    def ask(self, queue: Queue):
        stops, starts = super().ask(queue)
        for job in stops:
            self.stops.setdefault(job, []).append(queue.now)
        return stops, starts


@settings(derandomize=True, max_examples=5, deadline=None)
@given(st.integers(0, 10**6))
def test_nobody_is_stopped_more_than_three_times_in_an_hour(seed):
    watched = Watched(3)
    play(a_list(seed, 120), Yard(8), watched, quiet)
    for at in watched.stops.values():
        assert all(at[i + 3] - at[i] >= HOUR_S for i in range(len(at) - 3))


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, 2.0, 5.0)])
def test_where_all_ask_for_all_shares_become_the_weights(weights):
    jobs = asked(*[(0.0, 3600.0 * (10 + number % 70), 1 + number % 2, "abc"[number % 3])
                   for number in range(600)])  # fmt: skip
    watched = Watched(3)

    class Until(Exception):
        """All have asked for all for long enough."""

    def pass_time(queue: Queue, seconds: float) -> None:
        if queue.now > 14 * 86_400:
            raise Until
        Watched.pass_time(watched, queue, seconds)

    watched.pass_time = pass_time
    queue = Queue(jobs, Yard(32))
    queue.claims.weight[:] = weights
    with pytest.raises(Until):
        go_on(queue, watched, quiet)
    due = np.array(weights) / sum(weights)
    had = watched.held_s / watched.held_s.sum()
    assert (had >= (1 - RULE.budget) * due).all()


@pytest.mark.parametrize("seed", range(3))
def test_nobody_waits_for_ever_whatever_comes_after(seed):
    chance = random.Random(seed)
    flood = [(number * 300.0, chance.uniform(60, 3600), chance.choice((1, 2)), "b")
             for number in range(1500)]  # fmt: skip
    long = [(0.0, 40 * HOUR_S, 4, "a"), (0.0, 40 * HOUR_S, 4, "b")]
    found = played(asked(*flood, *long), 4, "madang")
    wait_s = found.ended_s - found.came_s - found.runs_s
    gangs = [i for i in range(len(found.size)) if found.size[i] == 4]
    # At their age limit each goes before all others, one after the other.
    assert max(wait_s[gangs]) <= RULE.aged_full_s + 2 * 41 * HOUR_S


def test_the_command_answers_in_the_keys_that_are_promised(capsys, tmp_path):
    path = tmp_path / "jobs.csv"
    path.write_text(HEAD + "0,a,1,3600\n10,b,2,7200\n")
    assert main(["twin", "queue", "--jobs", str(path), "--gpus", "2", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert tuple(answer) == NAMES
    assert {"mean_jct_h", "p95_jct_h", "p95_wait_h", "unfair", "worst_project", "p99_wait_h",
            "max_wait_h", "preemptions", "redone_share", "utilisation"
            } <= set(answer["madang"])  # fmt: skip
    assert main(["twin", "queue", "--jobs", str(path), "--gpus", "2"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown[1:]] == list(NAMES)


@pytest.mark.parametrize(("options", "code"), [
    (("--gpus", "0"), "twin.out-of-bounds"),
    (("--gpus", "2", "--policy", "best"), "twin.no-such-policy"),
    (("--gpus", "2", "--budget", "0"), "twin.out-of-bounds"),
    (("--gpus", "2", "--checkpoint", "often"), "twin.bad-span"),
])  # fmt: skip
def test_the_command_refuses_what_it_cannot_do(capsys, tmp_path, options, code):
    path = tmp_path / "jobs.csv"
    path.write_text(HEAD + "0,a,1,3600\n")
    assert main(["twin", "queue", "--jobs", str(path), *options, "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["code"] == code
