"""The table that processes share: what each sees of the others, and what is left of the dead."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madang.gateway import columns
from madang.gateway.columns import COLUMNS, PER_PROCESS, Columns, digest_of, lives, start_of
from madang.traffic.joint import WINDOW_SLOTS
from madang.traffic.refusal import Refusal
from madang.traffic.table import Allowance

from .many_callers import LIMIT, TOKENS, budgets

NAMES = ["key/k1", "project/seoul/minwon", "organization/seoul"]
CALLER = Path(__file__).with_name("many_callers.py")


def never(pid: int, start: int) -> bool:
    """Nobody lives."""
    return False


def always(pid: int, start: int) -> bool:
    """Everybody lives."""
    return True


numbers = st.tuples(st.integers(100, 400), *[st.integers(0, 1 << 40)] * 4)
told = st.tuples(st.integers(0, 3), st.sampled_from(NAMES), numbers)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(told, max_size=30), now=st.integers(400, 470))
def test_each_sees_the_sum_of_all_others(tmp_path_factory, steps, now):
    folder = tmp_path_factory.mktemp("columns")
    tables = [Columns(folder, 4) for _ in range(4)]
    assert all(table.claim(0, always) for table in tables)
    seats = {(p, name): tables[p].seat(name) for p in range(4) for name in NAMES}
    last = {}
    for process, name, said in steps:
        seats[process, name].tell(said)
        last[process, name] = said
    for process in range(4):
        for name in NAMES:
            there = [v for (at, of), v in last.items() if of == name and at != process]
            fresh = [each for each in there if now - each[0] < WINDOW_SLOTS]
            rates = [sum(each[cell] for each in fresh) for cell in (1, 2)]
            live = [sum(each[cell] for each in there) for cell in (3, 4)]
            newest = max((each[0] for each in there), default=0)
            assert seats[process, name].elsewhere(now) == (newest, *rates, *live)
    for table in tables:
        table.close()


def test_rates_of_the_dead_count_for_their_minute_and_then_the_column_is_free(tmp_path):
    dead, live = Columns(tmp_path, 1), Columns(tmp_path, 1)
    dead.claim(100, always)
    dead.seat(NAMES[0]).tell((100, 7, 70, 3, 9))
    live.claim(100, always)
    seat = live.seat(NAMES[0])
    assert seat.elsewhere(101) == (100, 7, 70, 3, 9)
    live.bury(101, never)
    assert seat.elsewhere(101) == (100, 7, 70, 0, 0)
    assert seat.elsewhere(100 + WINDOW_SLOTS) == (100, 0, 0, 0, 0)
    live.bury(100 + WINDOW_SLOTS, never)
    assert seat.elsewhere(101) == (0, 0, 0, 0, 0)


def test_there_is_a_column_for_each_process_and_for_its_last_lives_and_then_none(tmp_path):
    tables = [Columns(tmp_path, 16) for _ in range(COLUMNS + 1)]
    assert [each.claim(100, always) for each in tables] == [True] * COLUMNS + [False]
    assert tables[-1].claim(100 + WINDOW_SLOTS, never)
    assert PER_PROCESS > 1


def test_a_column_that_is_taken_anew_has_nothing_of_who_had_it(tmp_path):
    first, other = Columns(tmp_path, 2), Columns(tmp_path, 2)
    first.claim(0, always)
    first.seat(NAMES[0]).tell((5, 7, 70, 3, 9))
    other.claim(1000, never)
    assert other.seat(NAMES[0]).elsewhere(5) == (0, 0, 0, 0, 0)
    first.claim(1000, always)
    assert other.seat(NAMES[0]).elsewhere(5) == (0, 0, 0, 0, 0)


def test_a_process_with_the_number_of_a_dead_one_is_another(tmp_path):
    assert start_of(os.getpid()) > 0
    table, other = Columns(tmp_path, 1), Columns(tmp_path, 1)
    assert table.claim(0)
    other.bury(1000, lambda pid, start: (pid, start) == (os.getpid(), start_of(pid)))
    assert other.claim(0)
    table.seat("key/k").tell((0, 1, 1, 1, 1))
    assert other.seat("key/k").elsewhere(0) == (0, 1, 1, 1, 1)


def test_a_process_is_dead_once_it_was_killed_and_no_other_with_its_number_is_it():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        start = start_of(child.pid)
        assert lives(child.pid, start)
        assert not lives(child.pid, start - 1)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not lives(child.pid, start), "though nobody has waited for it"


def test_a_row_that_is_left_does_not_hide_what_lies_behind_it(tmp_path):
    names = (f"key/{number}" for number in range(1 << 20))
    first, behind = islice((n for n in names if not digest_of(n) % columns.ROWS), 2)
    table, other = Columns(tmp_path, 2), Columns(tmp_path, 2)
    table.claim(0)
    other.claim(0)
    leaves, stays = table.seat(first), table.seat(behind)
    stays.tell((1, 1, 1, 1, 1))
    leaves.leave()
    assert other.seat(behind).elsewhere(1) == (1, 1, 1, 1, 1)


def test_a_row_that_is_left_is_not_counted_and_is_taken_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "ROWS", 4)
    monkeypatch.setattr(columns, "PROBES_MAX", 4)
    table, other = Columns(tmp_path, 2), Columns(tmp_path, 2)
    table.claim(0)
    other.claim(0)
    seats = [table.seat(f"key/{number}") for number in range(4)]
    for seat in seats:
        seat.tell((1, 1, 1, 1, 1))
    there = other.seat("key/2")
    assert table.seat("key/more") is None
    assert there.elsewhere(1) == (1, 1, 1, 1, 1)
    seats[2].leave()
    seats[2].tell((1, 5, 5, 5, 5))
    assert there.elsewhere(1) == (0, 0, 0, 0, 0)
    assert table.seat("key/more")
    assert [other.seat(f"key/{n}").elsewhere(1)[1] for n in (0, 1, 3)] == [1, 1, 1]


def test_of_whom_there_is_no_row_each_process_lets_in_its_part(tmp_path, monkeypatch):
    monkeypatch.setattr(columns.Columns, "seat", lambda _self, _name: None)
    table = Columns(tmp_path, 4)
    table.claim(0)
    found, key = budgets(table, Allowance(requests_per_minute=8, concurrent=100))
    taken = [found.reserve(found.line(key), 1, 0, 1.0) for _ in range(3)]
    assert [isinstance(each, Refusal) for each in taken] == [False, False, True]


def test_what_is_over_is_told_though_nobody_asks(tmp_path):
    here, there = [Columns(tmp_path, 2) for _ in range(2)]
    for each in (here, there):
        each.claim(0)
    limits = Allowance(requests_per_minute=10)
    (ours, key), (theirs, _) = budgets(here, limits), budgets(there, limits)
    for _ in range(10):
        assert not isinstance(ours.reserve(ours.line(key), 1, 0, 100.0), Refusal)
    assert isinstance(theirs.reserve(theirs.line(key), 1, 0, 130.0), Refusal)
    ours.refresh(130.0)
    refused = theirs.reserve(theirs.line(key), 1, 0, 130.0)
    assert refused.limited.most == 10
    assert refused.limited.left == 0
    ours.refresh(100.0 + WINDOW_SLOTS)
    assert not isinstance(theirs.reserve(theirs.line(key), 1, 0, 100.0 + WINDOW_SLOTS), Refusal)


LIMITS = {
    "requests": Allowance(requests_per_minute=LIMIT),
    "tokens": Allowance(tokens_per_minute=LIMIT * TOKENS),
    "concurrent": Allowance(concurrent=LIMIT),
}


@pytest.mark.parametrize("dies", [0, 1])
@pytest.mark.parametrize("limit", sorted(LIMITS))
def test_four_processes_let_in_no_more_than_one_also_when_one_is_killed(tmp_path, limit, dies):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path.cwd())])}
    said = {name: getattr(LIMITS[limit], name) for name in LIMITS[limit].__struct_fields__}
    callers = [
        subprocess.Popen(
            [sys.executable, CALLER, tmp_path, json.dumps(said), "dies" if i < dies else "stays"],
            env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for i in range(4)
    ]  # fmt: skip
    for each in callers:
        assert each.stdout.readline() == "ready\n"
    for each in callers:
        each.stdin.write("go\n")
        each.stdin.flush()
    counts = [int(each.stdout.readline()) for each in callers]
    for each in callers[:dies]:
        each.wait()
    table = Columns(tmp_path, 4)
    table.claim(2.0)
    found, key = budgets(table, LIMITS[limit])
    more = 0
    while not isinstance(found.reserve(found.line(key), TOKENS, 0, 2.0), Refusal):
        more += 1
    over = counts[0] if dies and limit == "concurrent" else 0  # it had these in hand when it died
    assert LIMIT * 0.95 <= sum(counts) + more - over <= LIMIT * 1.05
    for each in callers:
        each.communicate("end\n")
