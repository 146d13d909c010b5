"""What processes print is kept, within bounds, whatever happens to the disk."""

from __future__ import annotations

import os
import resource

import pytest

from madang.supervisor import logring

KIB = 1024


@pytest.fixture
def ring(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs").mkdir()
    return logring.LogRing("a", 10 * KIB)


def test_a_ring_never_grows_over_two_files_and_keeps_the_newest(ring, tmp_path):
    for number in range(5000):
        ring.write(f"line {number}\n".encode())
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "logs").iterdir()}
    assert sizes.keys() == {"a.log", "a.log.1"}
    assert max(sizes.values()) <= 10 * KIB
    assert logring.tail("a", 2) == ["line 4998", "line 4999"]
    assert len(logring.tail("a", 1000)) == 1000


def test_a_full_disk_loses_lines_and_says_how_many(ring, tmp_path):
    ring.write(b"one\n")
    (tmp_path / "logs").rename(tmp_path / "away")
    ring.write(b"two\nthree\n")
    ring.write(b"four\n")
    (tmp_path / "away").rename(tmp_path / "logs")
    ring.write(b"five\n")
    assert logring.tail("a", 9) == ["one", "[3 lines lost: no space]", "five"]
    assert ring.lost_lines == 0


def test_the_oldest_rings_are_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logring, "RINGS_MAX", 2)
    (tmp_path / "logs").mkdir()
    for age, name in enumerate("abcdef"):
        path = tmp_path / "logs" / f"{name}.log"
        path.write_text("x")
        os.utime(path, (1000 - age, 1000 - age))
    logring.prune()
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == [
        "a.log",
        "b.log",
        "c.log",
        "d.log",
    ]


def test_a_process_that_prints_without_end_fills_no_disk(node):
    node.up("--log-bytes", str(128 * KIB))
    node.start("a", "sh", "-c", "seq 300000; echo the end; sleep 1000")
    node.until("a", lambda found: found)
    while node.ask("tail", uid="a", lines=1)["lines"] != ["the end"]:
        pass
    sizes = [path.stat().st_size for path in (node.home / "logs").iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= 128 * KIB


def test_a_process_outlives_a_full_disk_and_so_does_its_supervisor(running):
    gate, said = running.home / "gate", running.home / "said"
    os.mkfifo(gate)
    running.start("a", "sh", "-c", f"echo one; read x < {gate}; seq 100 && echo all > {said}")
    running.printed("a", 1)
    pid = running.process.pid
    full, free = (0, resource.RLIM_INFINITY), (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, full)
    gate.write_text("go\n")
    running.until("a", lambda found: found[0]["state"] == "exited")
    resource.prlimit(pid, resource.RLIMIT_FSIZE, free)
    assert said.read_text() == "all\n"
    assert running.ask("tail", uid="a", lines=9) == {"lines": ["one"]}


def test_the_output_of_something_unknown_is_empty(running):
    assert running.ask("tail", uid="nobody", lines=10) == {"lines": []}


def test_the_last_words_of_a_process_are_kept(running):
    running.start("a", "sh", "-c", "seq 1000; echo last words >&2")
    running.until("a", lambda found: found[0]["state"] == "exited")
    assert running.ask("tail", uid="a", lines=2)["lines"] == ["1000", "last words"]
