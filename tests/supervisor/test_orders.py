"""What the supervisor answers, order by order."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from madang.supervisor import orders, protocol
from madang.supervisor.protocol import RankPlan

SLEEP = ("sleep", "1000")
STUBBORN = ("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1000; done")


def code(answer: dict[str, Any]) -> str:
    return str(answer["error"]["code"])


def test_an_order_of_an_older_term_is_refused(running):
    assert running.ask("observe", term=7, after=0, wait_s=0)["processes"] == []
    refused = running.ask("observe", term=6, after=0, wait_s=0)
    assert code(refused) == "supervisor.stale-term"
    assert refused["error"]["values"] == {"term": 6, "newest": 7}


def test_a_supervisor_that_starts_again_takes_any_term(running, alive):
    """Nobody older lives: control was its predecessor's child, and its state may be a new one."""
    running.ask("observe", term=7, after=0, wait_s=0)
    pid = running.ask("start", term=7, plan={"uid": "a", "epoch": 1, "argv": SLEEP})["pid"]
    running.kill()
    running.up()
    assert not alive(pid)
    assert running.ask("tail", term=1, uid="a", lines=1) == {"lines": []}


def test_a_start_at_a_lower_epoch_is_refused(running):
    running.start("a", *SLEEP, epoch=3)
    refused = running.start("a", *SLEEP, epoch=2)
    assert code(refused) == "supervisor.stale-epoch"
    assert refused["error"]["values"] == {"newest": 3}
    assert [p["epoch"] for p in running.find("a")] == [3]


def test_the_same_start_again_changes_nothing(running):
    first = running.start("a", *SLEEP)
    before = running.observe()["seq"]
    assert running.start("a", "another", "program") == first
    assert running.observe()["seq"] == before


def test_the_same_start_again_does_not_repeat_what_has_ended(running):
    running.start("a", "true")
    running.until("a", lambda found: found[0]["state"] == "exited")
    assert running.start("a", "true")["state"] == "exited"


def test_a_higher_epoch_waits_until_the_old_one_is_gone(running):
    old = running.start("a", *STUBBORN, accelerators=["gpu0"], grace_s=1000)
    running.printed("a", 1)
    assert running.start("a", *SLEEP, epoch=2)["state"] == "waiting"
    both = [(p["epoch"], p["state"], p.get("pid")) for p in running.find("a")]
    assert both == [(1, "running", old["pid"]), (2, "waiting", None)]
    assert running.find("a")[0]["accelerators"] == ["gpu0"]
    os.kill(old["pid"], signal.SIGKILL)
    new = running.until("a", lambda found: found[-1]["state"] == "running")
    assert [p["epoch"] for p in running.find("a")] == [2]
    assert new["pid"] != old["pid"]


def test_a_stop_takes_back_the_successor_and_still_ends_the_old_one(running, ended):
    old = running.start("a", *STUBBORN, grace_s=1000)
    running.printed("a", 1)
    running.start("a", *SLEEP, epoch=2)
    assert running.ask("stop", uid="a", epoch=2, grace_s=0)["epoch"] == 1
    running.until("a", lambda found: not found)
    ended(old["pid"])


def test_a_successor_that_cannot_start_is_reported_as_ended(running):
    running.start("a", *SLEEP)
    running.start("a", "no-such-program", epoch=2)
    found = running.until("a", lambda found: found[-1]["state"] == "exited")
    assert (found["epoch"], found["exit_code"]) == (2, 127)
    assert "no-such-program" in running.ask("tail", uid="a", lines=1)["lines"][0]


def test_a_stopped_process_is_forgotten_once_it_is_gone(running, ended):
    pid = running.start("a", *SLEEP)["pid"]
    assert running.ask("stop", uid="a", epoch=1, grace_s=10)["state"] == "running"
    running.until("a", lambda found: not found)
    ended(pid)


def test_one_that_ignores_sigterm_is_killed_after_its_grace(running):
    running.start("a", *STUBBORN)
    running.printed("a", 1)
    running.ask("stop", uid="a", epoch=1, grace_s=1000)
    assert running.find("a")[0]["state"] == "running"
    running.ask("stop", uid="a", epoch=1, grace_s=0.1)
    running.until("a", lambda found: not found)


def test_an_ended_process_stays_in_the_report_until_it_is_stopped(running):
    running.start("a", "sh", "-c", "exit 3")
    found = running.until("a", lambda found: found[0]["state"] == "exited")
    assert found["exit_code"] == 3
    assert found["ended_at"] >= found["started_at"]
    assert running.ask("stop", uid="a", epoch=1, grace_s=0).keys() == {"seq", "boot"}
    assert running.find("a") == []


def test_a_stop_of_something_unknown_is_answered_as_done(running):
    assert running.ask("stop", uid="a", epoch=1, grace_s=0).keys() == {"seq", "boot"}


def test_a_start_that_was_overtaken_by_its_stop_is_refused(running):
    stopped = running.ask("stop", uid="a", epoch=2, grace_s=0)
    assert code(running.start("a", *SLEEP, epoch=1)) == "supervisor.stale-epoch"
    assert code(running.start("a", *SLEEP, epoch=2)) == "supervisor.stale-epoch"
    assert running.find("a") == []
    started = running.start("a", *SLEEP, epoch=3)
    assert (started["boot"], started["state"]) == (stopped["boot"], "running")
    assert started["seq"] > stopped["seq"]


def test_a_start_that_is_sent_again_after_its_stop_is_refused(running):
    running.start("a", *SLEEP)
    running.ask("stop", uid="a", epoch=1, grace_s=0)
    running.until("a", lambda found: not found)
    assert code(running.start("a", *SLEEP)) == "supervisor.stale-epoch"


def test_a_stop_for_an_older_epoch_leaves_the_newer_one_alone(running):
    running.start("a", *SLEEP, epoch=2)
    assert running.ask("stop", uid="a", epoch=1, grace_s=0).keys() == {"seq", "boot"}
    assert running.find("a")[0]["state"] == "running"


def test_a_program_that_does_not_exist_is_an_answer_and_leaves_nothing(running):
    refused = running.start("a", "no-such-program")
    assert code(refused) == "supervisor.spawn-failed"
    assert refused["error"]["values"] == {
        "program": "no-such-program",
        "cause": "No such file or directory",
    }
    assert running.find("a") == []


def test_a_start_that_fails_is_seen_by_nobody_as_an_end(running):
    waiting = running.client()
    order = {"v": 1, "id": 1, "verb": "observe", "term": 1, "after": running.observe()["seq"]}
    waiting.send(json.dumps({**order, "wait_s": 60}).encode() + b"\n")
    running.start("a", "no-such-program")
    assert waiting.answer()["ok"]["processes"] == []


@pytest.mark.parametrize("broken", [{"cwd": "/no/such/folder"}, {"env": {"A=B": "x"}}])
def test_what_the_machine_does_not_take_is_an_answer(running, broken):
    assert code(running.start("a", *SLEEP, **broken)) == "supervisor.spawn-failed"
    assert running.find("a") == []


def test_a_signal_reaches_the_process(running):
    running.start("a", "sh", "-c", "trap 'echo heard; exit 4' USR1; echo ready; sleep 1000 & wait")
    running.printed("a", 1)
    running.ask("signal", uid="a", epoch=1, signal="SIGUSR1")
    assert running.printed("a", 2) == ["ready", "heard"]
    assert code(running.ask("signal", uid="b", epoch=1, signal="SIGUSR1")) == (
        "supervisor.unknown-process"
    )


def test_what_a_child_announces_is_reported(running):
    line = json.dumps({"url": "http://127.0.0.1:1", "pid": 7})
    running.start("a", "sh", "-c", f"echo '{line}' >&$MADANG_READY_FD; sleep 1000")
    found = running.until("a", lambda found: "announced" in found[0])
    assert found["announced"] == {"url": "http://127.0.0.1:1", "pid": 7}
    assert running.until("a", lambda found: "rss_bytes" in found[0])["rss_bytes"] > 0


@pytest.mark.parametrize("line", ["[1]", "{", "[" * 900, '{"a":"' + "x" * 5000 + '"}'])
def test_a_child_that_announces_nonsense_is_just_running(running, line):
    running.start("a", "sh", "-c", f"echo '{line}' >&3; echo done; sleep 1000")
    running.printed("a", 1)
    assert "announced" not in running.find("a")[0]


def test_observe_waits_without_blocking_others(running):
    waiting = running.client()
    order = {"v": 1, "id": 1, "verb": "observe", "term": 1, "after": running.observe()["seq"]}
    waiting.send(json.dumps({**order, "wait_s": 60}).encode() + b"\n")
    running.start("a", *SLEEP)
    seen = waiting.answer()["ok"]
    assert [p["uid"] for p in seen["processes"]] == ["a"]


def test_observe_answers_after_its_wait_when_nothing_changes(running):
    seen = running.observe()
    assert running.observe(after=seen["seq"], wait_s=0.05) == seen


def test_observe_answers_at_once_to_a_number_of_another_boot(running):
    seen = running.observe()
    running.kill()
    running.up()
    again = running.observe(after=seen["seq"], wait_s=60)
    assert again["boot"] != seen["boot"]
    assert running.observe(after=again["seq"] + 1, wait_s=60) == again


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello",
        b"\xff\xfe",
        b"[]",
        b"[" * 100_000,
        b'{"v":1,"term":' + b"9" * 6000 + b"}",
        b'{"v":2,"id":5,"verb":"observe","term":1}',
        b'{"v":1,"id":5,"verb":"observe","term":null,"after":0,"wait_s":0}',
        b'{"v":1,"id":5,"verb":"observe","term":1e999,"after":0,"wait_s":0}',
        b'{"v":1,"id":5,"verb":"dance","term":1}',
        b'{"v":1,"id":[],"verb":["stop"],"term":1}',
        b'{"v":1,"term":1,"verb":"dance","id":' + b"[" * 970 + b"]" * 970 + b"}",
        b'{"v":1,"id":5,"verb":"stop","term":1,"uid":"../../x","epoch":1,"grace_s":0}',
        b'{"v":1,"id":5,"verb":"stop","term":1,"uid":"a","epoch":1,"grace_s":NaN}',
        b'{"v":1,"id":5,"verb":"stop","term":1,"uid":"\\ud800","epoch":1,"grace_s":0}',
        b'{"v":1,"id":5,"verb":"tail","term":1,"uid":"a","lines":"all"}',
        b'{"v":1,"id":5,"verb":"signal","term":1,"uid":"a","epoch":1,"signal":"Signals"}',
    ],
)
def test_a_broken_line_is_answered_and_ends_nothing(running, line):
    client = running.client()
    client.send(line + b"\n")
    assert code(client.answer()) == "supervisor.bad-order"
    assert client.ask("observe", after=0, wait_s=0)["ok"]["processes"] == []


@pytest.mark.parametrize(
    "broken",
    [
        {"uid": "A b"},
        {"uid": "x" * 64},
        {"uid": 3},
        {"epoch": "1"},
        {"accelerators": 1},
        {"accelerators": [[]]},
        {"argv": []},
        {"argv": "sleep"},
        {"argv": [1]},
        {"argv": ["a\0b"]},
        {"argv": ["\ud800"]},
        {"env": []},
        {"env": {"A": 1}},
        {"cwd": 7},
        {"restart": "sometimes"},
        {"grace_s": "soon"},
        {"grace_s": -1},
        {"grace_s": float("nan")},
        {"surprise": 1},
    ],
)
def test_a_broken_plan_is_answered_and_starts_nothing(running, broken):
    plan = {"uid": "a", "epoch": 1, "argv": ["sleep", "1000"], **broken}
    refused = code(running.ask("start", plan=plan))
    assert refused in ("supervisor.bad-order", "supervisor.spawn-failed")
    assert running.observe()["processes"] == []


RANK = {"rank": 0, "env": {"RANK": "0"}}


@pytest.mark.parametrize(
    "broken",
    [
        {"ranks": 1},
        {"ranks": [1]},
        {"ranks": ["rank"]},
        {"ranks": [{}]},
        {"ranks": [{"rank": "0"}]},
        {"ranks": [{"rank": []}]},
        {"ranks": [{"rank": -1}]},
        {"ranks": [{"rank": 1 << 40}]},
        {"ranks": [{"rank": 0, "surprise": 1}]},
        {"ranks": [{"rank": 0, "env": []}]},
        {"ranks": [{"rank": 0, "env": {"A": 1}}]},
        {"ranks": [{"rank": 0, "env": {"A": "x" * (64 << 10)}}]},
        {"ranks": [{"rank": number} for number in range(65)]},
        {"ranks": [RANK, RANK]},
        {"ranks": [RANK], "env": []},
        {"ranks": [RANK], "argv": ["sleep", 1]},
        {"ranks": [RANK], "restart": "always"},
        {"ranks": [RANK], "progress": 1},
        {"ranks": [RANK], "progress": "here"},
        {"ranks": [RANK], "progress": "/a\0b"},
        {"ranks": [RANK], "progress": "/" + "x" * 1024},
        {"ranks": [RANK], "patience": 1},
        {"ranks": [RANK], "patience": {"first_s": "long"}},
        {"ranks": [RANK], "patience": {"least_s": -1}},
        {"ranks": [RANK], "patience": {"steps": float("nan")}},
        {"ranks": [RANK], "patience": {"fixed_s": float("inf")}},
        {"ranks": [RANK], "patience": {"surprise": 1}},
        {"ranks": [RANK], "sandbox": 1},
        {"ranks": [RANK], "sandbox": {"surprise": 1}},
        {"ranks": [RANK], "sandbox": {"reads": 1}},
        {"ranks": [RANK], "sandbox": {"reads": ["--bind"]}},
        {"ranks": [RANK], "sandbox": {"writes": ["/a/../etc"]}},
        {"ranks": [RANK], "sandbox": {"devices": [1]}},
        {"ranks": [RANK], "sandbox": {"reads": ["/a"] * 257}},
        {"ranks": [RANK], "sandbox": {"network": "host"}},
        {"ranks": [RANK], "sandbox": {"uid": -1}},
        {"ranks": [RANK], "sandbox": {"uid": 1 << 40}},
        {"ranks": [RANK], "sandbox": {"shm_bytes": 0}},
        {"ranks": [RANK], "sandbox": {"file_bytes": "1"}},
        {"ranks": [RANK], "sandbox": {"data_bytes": 1 << 70}},
        {"sandbox": {}},
    ],
)
def test_a_broken_member_of_a_gang_is_answered_and_starts_nothing(running, broken):
    plan = {"uid": "a", "epoch": 1, "argv": ["sleep", "1000"], "env": {}, **broken}
    assert code(running.ask("start", plan=plan)) == "supervisor.bad-order"
    assert running.observe()["processes"] == []


def test_what_is_written_of_a_member_is_read_as_it_was():
    plan = protocol.LaunchPlan(
        "a", 1, ("train",), ranks=(RankPlan(3, {"RANK": "3"}),), progress="/p",
        patience=protocol.Patience(first_s=7, fixed_s=0.5),
        sandbox=protocol.Sandbox(reads=("/r",), writes=("/w",), devices=("/d",), uid=7),
    )  # fmt: skip
    rank = protocol.Rank(3, exit_code=-9, ended_at=1.5, metrics={"loss": 0.5})
    process = protocol.Process("a", 1, "exited", exit_code=1, ranks=(rank,))
    carried = json.loads(json.dumps(protocol.order("start", 1, 1, plan=plan)))["plan"]
    assert protocol.plan_from(carried) == plan
    assert protocol.process_from(json.loads(json.dumps(orders.brief(process)))) == process


def test_a_plain_plan_is_written_as_ever_so_that_an_older_supervisor_reads_it():
    written = protocol.order("start", 1, 1, plan=protocol.LaunchPlan("a", 1, ("engine",)))
    assert not {"ranks", "progress", "patience", "sandbox"} & written["plan"].keys()


def test_what_everybody_does_fits_into_one_line_whatever_ranks_tell():
    told = {f"metric-{number:02}-{'x' * 22}": 0.123456789 for number in range(16)}
    full = protocol.Rank(1, metrics=told, phase="p" * 64, checkpoint="c" * 128, error="e" * 200)
    ranks = tuple(dataclasses.replace(full, rank=number) for number in range(64))
    found = [protocol.Process(f"job-{n}", 1, "running", n, ranks=ranks) for n in range(16)]
    room = orders.Orders(SimpleNamespace(closing=False, reports=lambda: found, seq=1))
    told_of = room.observation()
    assert len(protocol.encode({"id": 1, "ok": told_of})) <= protocol.LINE_BYTES_MAX
    assert [len(each["ranks"]) for each in told_of["processes"]] == [64] * 16


def test_a_line_over_the_bound_closes_its_connection_only(running):
    client = running.client()
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        client.send(b"x" * (64 << 20))
    assert running.observe()["processes"] == []


def test_a_client_that_reads_no_answers_does_not_stop_the_others(running):
    lazy = running.client()
    lazy.socket.settimeout(0.2)
    order = {"v": 1, "id": 1, "verb": "observe", "term": 1, "after": 0, "wait_s": 0}
    with pytest.raises((TimeoutError, ConnectionResetError, BrokenPipeError)):
        lazy.send((json.dumps(order).encode() + b"\n") * 200_000)
    assert running.observe()["processes"] == []


def test_the_65th_connection_is_let_go(running):
    clients = [running.client() for _ in range(64)]
    for client in clients:
        assert "ok" in client.ask("tail", uid="a", lines=1)
    with pytest.raises((AssertionError, OSError)):
        running.client().ask("tail", uid="a", lines=1)
    clients[0].close()
    clients[1].ask("tail", uid="a", lines=1)
    assert running.ask("tail", uid="a", lines=1) == {"lines": []}


def test_a_state_that_was_lost_and_made_anew_is_obeyed_and_the_lost_one_no_more(running):
    running.ask("observe", term=9, store="lost", after=0, wait_s=0)
    assert "seq" in running.ask("observe", term=1, store="anew", after=0, wait_s=0)
    assert code(running.ask("observe", term=10, store="lost", after=0, wait_s=0)) == (
        "supervisor.stale-term"
    )
    assert "seq" in running.ask("observe", term=2, store="anew", after=0, wait_s=0)
    assert code(running.ask("observe", term=1, store="anew", after=0, wait_s=0)) == (
        "supervisor.stale-term"
    )
