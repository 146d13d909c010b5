"""What processes print is kept, within bounds, whatever happens to the disk."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

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


def test_all_rings_together_spare_the_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logring, "LOGS_BYTES_MAX", 250)
    (tmp_path / "logs").mkdir()
    for age, name in enumerate("abcd"):
        path = tmp_path / "logs" / f"{name}.log"
        path.write_text("x" * 100)
        os.utime(path, (1000 - age, 1000 - age))
    logring.prune()
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["a.log", "b.log"]


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


@pytest.fixture
def ranks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs").mkdir()
    return [logring.RankLog("a", number, 64 * KIB) for number in range(2)]


def test_lines_of_ranks_are_told_as_they_came_with_whose_and_when(ranks):
    ranks[0].write(b"one\n")
    ranks[1].write(b"two\nthree\n")
    ranks[0].write(b"four\n")
    told = logring.told("a", 9)
    assert told["lines"] == ["one", "two", "three", "four"]
    assert told["ranks"] == [0, 1, 1, 0]
    assert told["at"] == sorted(told["at"])
    assert logring.told("a", 1, rank=1)["lines"] == ["three"]
    assert logring.told("a", 3)["lines"] == ["two", "three", "four"]
    assert logring.told("a", 0)["lines"] == []
    assert logring.told("a", 9, rank=7)["lines"] == []


def test_a_line_is_kept_once_it_is_whole_or_nothing_more_will_come(ranks):
    for piece in (b"on", b"e\ntw", b"o"):
        ranks[0].write(piece)
    assert logring.told("a", 9)["lines"] == ["one"]
    ranks[0].write(b"")
    assert logring.told("a", 9)["lines"] == ["one", "two"]


def test_a_bar_that_is_drawn_again_and_again_is_told_as_it_is_seen(ranks):
    ranks[0].write(b"\r 10 %")
    ranks[0].write(b"\r 20 %")
    ranks[0].write(b"\r 30 %\ndone\r\n")
    assert logring.told("a", 3)["lines"] == [" 10 %", " 30 %", "done"]


def test_what_is_not_text_is_told_as_text_and_a_line_without_end_is_cut(ranks):
    ranks[0].write(b"\xff\n" + b"x" * 40_000)
    ranks[0].write(b"y\n")
    told = logring.told("a", 9)["lines"]
    assert told[0] == "\ufffd"
    assert [len(line) for line in told[1:]] == [16384, 16384, 7233]


@pytest.mark.parametrize("line", [b"", b"x", b"x" * 99, b"x" * 5000, b"x" * 30_000])
def test_of_a_rank_no_line_is_torn_and_none_is_missing_between_the_kept_ones(ranks, tmp_path, line):
    """Written in pieces that respect no line, until the ring has turned round a few times."""
    count = 400_000 // (len(line) + 20) + 20
    text = b"".join(b"%06d %b\n" % (number, line[:16_000]) for number in range(count))
    for start in range(0, len(text), 7919):
        ranks[0].write(text[start : start + 7919])
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "logs").iterdir()}
    assert max(sizes.values()) <= 64 * KIB
    kept = b"".join((tmp_path / "logs" / name).read_bytes() for name in ("a.0.log.1", "a.0.log"))
    whole = [each[logring.STAMP_CHARS :] for each in kept.splitlines(keepends=True)]
    assert whole == text.splitlines(keepends=True)[-len(whole) :]
    assert len(kept) > 64 * KIB // 2
    head = (tmp_path / "logs" / "a.0.head").read_bytes().splitlines(keepends=True)
    first = [each[logring.STAMP_CHARS :] for each in head]
    assert first == text.splitlines(keepends=True)[: len(first)]
    assert logring.told("a", 2, rank=0, first=True)["lines"] == [
        each.decode() for each in text.splitlines()[:2]
    ]


def test_empty_lines_without_end_fill_no_disk(ranks, tmp_path):
    ranks[0].write(b"\n" * (256 << 10))
    sizes = [path.stat().st_size for path in (tmp_path / "logs").iterdir()]
    assert len(sizes) == 3
    assert max(sizes) <= 64 * KIB


def test_where_space_ends_within_a_line_that_line_is_lost_whole(ranks, tmp_path):
    """A full disk takes a part of what is written, and only then says that it is full."""
    code = """
import resource, signal, sys
from madang.supervisor import logring
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = logring.RankLog("a", 0, 64 << 10)
log.write(b"one\\n")
resource.setrlimit(resource.RLIMIT_FSIZE, (60, resource.RLIM_INFINITY))
log.write(b"two\\n" + b"x" * 99 + b"\\nthree\\n")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
log.write(b"four\\n")
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert logring.told("a", 9)["lines"] == ["one", "two", "[2 lines lost: no space]", "four"]


def test_a_new_attempt_keeps_its_own_first_lines(ranks):
    ranks[0].write(b"old\n")
    again = logring.RankLog("a", 0, 64 * KIB)
    again.write(b"new\n")
    assert logring.told("a", 9, rank=0, first=True)["lines"] == ["new"]
    assert logring.told("a", 9, rank=0)["lines"] == ["old", "new"]


def test_a_tail_of_many_ranks_fits_into_one_answer(ranks):
    for number in range(300):
        for log in ranks:
            log.write(b"%03d " % number + b"x" * 1000 + b"\n")
    told = logring.told("a", 1000)
    assert 100 < len(told["lines"]) < 131
    assert told["lines"][-1].startswith("299")
    told = logring.told("a", 1000, first=True)
    assert told["lines"][0].startswith("000")
    assert told["ranks"][:4] == [0, 1, 0, 1]


def test_eight_ranks_that_print_without_end_lose_nothing_within_what_is_kept(node):
    """And the supervisor answers meanwhile; the disk holds what four processes may print."""
    node.up("--log-bytes", str(256 * KIB))
    shout = "seq -f 'rank '$RANK' line %.0f' 200000; echo the end; sleep 1000"
    node.gang("a", "sh", "-c", shout, ranks=8)
    for number in range(8):
        while node.ask("tail", uid="a", lines=1, rank=number)["lines"] != ["the end"]:
            assert node.find("a")[0]["state"] == "running"
        name = node.home / "logs" / f"a.{number}.log"
        kept = name.with_suffix(".log.1").read_bytes() + name.read_bytes()
        lines = [line[logring.STAMP_CHARS :].decode() for line in kept.splitlines()]
        assert lines.pop() == "the end"
        first = 200_000 - len(lines) + 1
        assert lines == [f"rank {number} line {count}" for count in range(first, 200_001)]
    total = sum(path.stat().st_size for path in (node.home / "logs").iterdir())
    assert total <= 2 * 4 * 256 * KIB + 8 * 64 * KIB
    merged = node.ask("tail", uid="a", lines=1000)
    assert merged["at"] == sorted(merged["at"])


def test_the_last_words_of_a_rank_are_kept_without_an_end_of_line(running):
    running.gang("a", "sh", "-c", "printf 'last words of %s' $RANK; kill -9 $$")
    running.until("a", lambda found: found[0]["state"] == "exited")
    told = running.ask("tail", uid="a", lines=9)
    assert sorted(told["lines"]) == ["last words of 0", "last words of 1"]
    assert code(running.ask("tail", uid="a", lines=9, rank="0")) == "supervisor.bad-order"


def code(answer):
    return answer["error"]["code"]
