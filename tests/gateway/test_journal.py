"""The usage file alone: groups, batches, torn tails, its bound."""

from __future__ import annotations

import os

import msgspec
import pytest

from madang.gateway.journal import BATCH_RECORDS_MAX, Journal
from madang.traffic.table import Usage


def usage(number):
    return Usage(f"req-{number:06d}", 1.0, "k", "p", "e", "r", 1, 0, 1, 200, 0.5)


def ids(lines):
    return [msgspec.json.decode(line)["id"] for line in lines]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "usage.jsonl"


@pytest.fixture
def open_journal(path):
    opened = []

    def start(**bounds):
        journal = Journal(path, **bounds)
        journal.open()
        opened.append(journal)
        return journal

    yield start
    for each in opened:
        each.close()


def test_records_come_back_in_batches_and_leave_an_empty_file(open_journal, path):
    journal = open_journal()
    journal.append([usage(n) for n in range(BATCH_RECORDS_MAX + 1)])
    first, end = journal.batch()
    assert ids(first) == [f"req-{n:06d}" for n in range(BATCH_RECORDS_MAX)]
    journal.delivered(end)
    second, end = journal.batch()
    assert ids(second) == [f"req-{BATCH_RECORDS_MAX:06d}"]
    journal.delivered(end)
    assert journal.batch() == ([], 0)
    assert path.stat().st_size == 0
    journal.append([usage(7)])
    assert ids(journal.batch()[0]) == ["req-000007"]


def test_what_was_not_delivered_is_there_after_a_restart(open_journal):
    open_journal().append([usage(1), usage(2)])
    assert ids(open_journal().batch()[0]) == ["req-000001", "req-000002"]


@pytest.mark.parametrize("torn", [b"{", b'{"id":"x"', b"\xff\xfe", b"x" * 1_000_000])
def test_a_torn_last_line_is_dropped(open_journal, path, torn):
    open_journal().append([usage(1)])
    with path.open("ab") as file:
        file.write(torn)
    journal = open_journal()
    assert ids(path.read_bytes().splitlines()) == ["req-000001"]
    journal.append([usage(2)])
    taken = []
    while (batch := journal.batch())[1]:
        taken += ids(batch[0])
        journal.delivered(batch[1])
    assert taken == ["req-000001", "req-000002"]


def test_a_damaged_line_is_passed_over_and_named(open_journal, path, caplog):
    open_journal().append([usage(1)])
    with path.open("ab") as file:
        file.write(b"not a record\n")
    journal = open_journal()
    journal.append([usage(2)])
    records, end = journal.batch()
    assert ids(records) == ["req-000001", "req-000002"]
    assert end == path.stat().st_size
    assert "not a record" in caplog.text


def test_a_full_file_keeps_the_oldest_and_counts_what_is_lost(open_journal, path, caplog):
    line = len(msgspec.json.encode(usage(1))) + 1
    journal = open_journal(file_bytes_max=3 * line)
    journal.append([usage(1), usage(2)])
    journal.append([usage(3), usage(4), usage(5)])
    assert ids(journal.batch()[0]) == ["req-000001", "req-000002", "req-000003"]
    assert journal.lost == 2
    assert "2 records lost" in caplog.text
    assert path.stat().st_size == 3 * line


def test_a_write_that_fails_leaves_no_trace(open_journal, path, monkeypatch):
    journal = open_journal()
    journal.append([usage(1)])
    whole = path.read_bytes()
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: os.write(fd, data[:5]))
    with pytest.raises(OSError, match="only a part"):
        journal.append([usage(2)])
    monkeypatch.undo()
    assert path.read_bytes() == whole
    journal.append([usage(3)])
    assert ids(journal.batch()[0]) == ["req-000001", "req-000003"]


def test_the_file_is_for_its_owner_only(open_journal, path):
    open_journal()
    assert path.stat().st_mode & 0o777 == 0o600
