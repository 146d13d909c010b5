"""The segments of usage alone: groups, batches, torn tails, bounds, and what the dead left."""

from __future__ import annotations

import os
from itertools import count

import msgspec
import pytest

from madang.gateway import journal as room
from madang.gateway.journal import BATCH_RECORDS_MAX, Bounds, Group, Journal, column_of, segments_in
from madang.gateway.segment import Segment, line_of
from madang.traffic.account import CUT_OFF, Closed, Opened, Passed
from madang.traffic.table import Usage

NOBODY = Passed(0.0, ())


def usage(number, **fields):
    made = Usage(f"req-{number:06d}", 1.0, "k", "p", "e", "r", 1, 0, 1, 200, 0.5)
    return msgspec.structs.replace(made, **fields)


def opened(number, **fields):
    return Opened(usage(number, output_tokens=0, status=CUT_OFF, **fields))


def passed(at, **tokens):
    return Passed(at, tuple((f"req-{int(name[1:]):06d}", count) for name, count in tokens.items()))


def ids(batch):
    return [each.id for each in batch.records]


def taken(journal):
    """All that control would be told, by id."""
    found = []
    while batch := journal.batch():
        found += batch.records
        journal.delivered(batch.segment, batch.end)
    assert len({each.id for each in found}) == len(found)
    return {each.id: each for each in found}


@pytest.fixture
def open_journal(tmp_path):
    living, columns = [], count(1)

    def start(**bounds):
        journal = Journal(tmp_path, f"usage-7-{next(columns)}-ab", Bounds(**bounds))
        living.append(journal)
        for _ in journal.recover():
            pass
        return journal

    start.kill = lambda: (
        [each.let_go() for journal in living for each in journal._all()] + [living.clear()]
    )
    yield start
    start.kill()


def write(journal, *entries, standing=(), far=NOBODY):
    journal.append(Group(entries, standing, far))


def close(journal, *numbers):
    write(journal, *(Closed(usage(n)) for n in numbers))


def test_records_come_back_in_batches_and_once(open_journal, tmp_path):
    journal = open_journal()
    close(journal, *range(BATCH_RECORDS_MAX + 1))
    first = journal.batch()
    assert ids(first) == [f"req-{n:06d}" for n in range(BATCH_RECORDS_MAX)]
    journal.delivered(first.segment, first.end)
    second = journal.batch()
    assert ids(second) == [f"req-{BATCH_RECORDS_MAX:06d}"]
    assert (second.segment, second.start) == (first.segment, first.end)
    journal.delivered(second.segment, second.end)
    assert journal.batch() is None
    assert segments_in(tmp_path) == [], "it is large enough to be let go"
    close(journal, 7)
    assert ids(journal.batch()) == ["req-000007"]


def test_a_small_segment_goes_when_its_writer_does(open_journal, tmp_path):
    journal = open_journal()
    close(journal, 1)
    taken(journal)
    assert len(segments_in(tmp_path)) == 1
    journal.close()
    assert segments_in(tmp_path) == []


def test_what_was_not_delivered_is_there_after_a_restart(open_journal):
    close(open_journal(), 1, 2)
    open_journal.kill()
    assert ids(open_journal().batch()) == ["req-000001", "req-000002"]


def test_control_says_how_far_it_has_a_segment(open_journal):
    close(open_journal(), *range(3))
    open_journal.kill()
    journal = open_journal()
    batch = journal.batch()
    journal.delivered(batch.segment, batch.start + len(line_of(Closed(usage(0)))))
    assert ids(journal.batch()) == ["req-000001", "req-000002"]
    journal.delivered(batch.segment, 1 << 50)
    assert journal.batch() is None


def test_processes_of_one_home_leave_each_others_segments_alone(open_journal, tmp_path):
    one = open_journal()
    close(one, 1)
    two = open_journal()
    close(two, 2)
    for _ in one.recover():
        pass
    assert taken(one).keys() == {"req-000001"}
    assert taken(two).keys() == {"req-000002"}
    assert {path.name.split(".")[0] for path in segments_in(tmp_path)} == {
        "usage-7-1-ab", "usage-7-2-ab",
    }  # fmt: skip


def test_a_column_that_somebody_takes_over_is_his_alone(open_journal, tmp_path):
    journal = open_journal(segment_max=1)
    close(journal, 1)
    close(journal, 2)
    open_journal.kill()
    _, second = segments_in(tmp_path)
    other = Segment.take(second)
    assert other is not None
    late = open_journal()
    assert late.batch() is None
    other.let_go()
    for _ in late.recover():
        pass
    assert taken(late).keys() == {"req-000001", "req-000002"}


def test_what_was_open_is_settled_at_what_last_passed(open_journal, caplog):
    journal = open_journal()
    write(journal, *(opened(n, at=10.0, prompt_tokens=9, duration_s=1.0) for n in (1, 2, 3)))
    write(journal, passed(11.0, r1=4, r2=1), standing=[opened(1), opened(2), opened(3)])
    write(journal, passed(12.5, r1=6), Closed(usage(2, output_tokens=5)))
    open_journal.kill()
    found = taken(open_journal())
    assert {n: (u.output_tokens, u.estimated) for n, u in found.items()} == {
        "req-000001": (6, True), "req-000002": (5, False), "req-000003": (0, True),
    }  # fmt: skip
    cut = found["req-000001"]
    assert (cut.status, cut.prompt_tokens, cut.at, cut.duration_s) == (CUT_OFF, 9, 12.5, 3.5)
    assert found["req-000003"].at == 10.0
    assert "2 requests were open" in caplog.text


def test_a_clock_that_was_set_back_makes_no_duration_negative(open_journal):
    journal = open_journal()
    write(journal, opened(1, at=1e9, duration_s=2.0))
    write(journal, passed(5.0, r1=4), standing=[opened(1)])
    open_journal.kill()
    (cut,) = taken(open_journal()).values()
    assert (cut.at, cut.duration_s, cut.output_tokens) == (5.0, 0.0, 4)


def test_what_was_settled_once_is_so_for_good(open_journal):
    write(open_journal(), opened(1), opened(2))
    open_journal.kill()
    journal = open_journal()
    batch = journal.batch()
    open_journal.kill()
    again = open_journal()
    assert again.batch().records == batch.records
    assert len(taken(again)) == 2


def test_what_is_open_goes_along_into_the_next_segment(open_journal, tmp_path):
    journal = open_journal(segment_max=400)
    write(journal, opened(1))
    for number in range(10, 20):
        write(
            journal, passed(2.0, r1=number), Closed(usage(number)),
            standing=[opened(1)], far=passed(1.9, r1=number - 1),
        )  # fmt: skip
        found = taken(journal)
        assert found.keys() == {f"req-{number:06d}"}
        assert len(segments_in(tmp_path)) == 1, "older ones are let go"
    open_journal.kill()
    found = taken(open_journal())
    assert found.keys() == {"req-000001", "req-000019"}, "control has the latter, and knows it"
    assert found["req-000001"].output_tokens == 19


@pytest.mark.parametrize(
    "torn", [b"{", b"1234abcd[", b"\xff\xfe", b"x" * 1_000_000], ids=["one", "two", "bytes", "long"]
)
def test_a_torn_last_line_is_dropped(open_journal, tmp_path, torn):
    close(open_journal(), 1)
    open_journal.kill()
    (path,) = segments_in(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    journal = open_journal()
    assert path.read_bytes() == whole
    assert taken(journal).keys() == {"req-000001"}


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_file_cut_anywhere_gives_its_whole_lines(open_journal, tmp_path, cut):
    close(open_journal(), 1, 2)
    open_journal.kill()
    (path,) = segments_in(tmp_path)
    os.truncate(path, path.stat().st_size - cut)
    assert taken(open_journal()).keys() == {"req-000001"}


@pytest.mark.parametrize(
    "damaged", [b"not a record\n", b"00000000[]\n", b"\n", b"\x00" * 50 + b"\n"],
    ids=["text", "sum", "empty", "zeros"],
)  # fmt: skip
def test_a_damaged_line_is_passed_over_and_named(open_journal, tmp_path, caplog, damaged):
    close(open_journal(), 1)
    open_journal.kill()
    (path,) = segments_in(tmp_path)
    path.write_bytes(damaged + path.read_bytes() + line_of(Closed(usage(2))) + damaged)
    assert taken(open_journal()).keys() == {"req-000001", "req-000002"}
    assert "damaged usage record" in caplog.text


def test_a_flipped_byte_is_not_believed(open_journal, tmp_path):
    close(open_journal(), 1, 2)
    open_journal.kill()
    (path,) = segments_in(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"output_tokens":1', b'"output_tokens":9', 1))
    assert taken(open_journal()).keys() == {"req-000002"}


def test_full_files_keep_the_oldest_and_count_what_is_lost(open_journal, tmp_path, caplog):
    line = len(line_of(Closed(usage(1))))
    journal = open_journal(all_max=3 * line)
    close(journal, 1, 2)
    close(journal, 3, 4, 5)
    assert journal.lost == 2
    assert "2 records lost" in caplog.text
    assert sum(path.stat().st_size for path in segments_in(tmp_path)) == 3 * line
    assert ids(journal.batch()) == ["req-000001", "req-000002", "req-000003"]


def test_for_want_of_room_what_is_open_goes_unwritten_before_what_is_closed(open_journal):
    line = len(line_of(Closed(usage(1))))
    journal = open_journal(all_max=2 * line)
    write(journal, opened(3), opened(4), passed(1.0, r3=1), Closed(usage(1)), Closed(usage(2)))
    assert journal.lost == 0
    assert ids(journal.batch()) == ["req-000001", "req-000002"]


def test_a_write_that_fails_leaves_no_trace(open_journal, tmp_path, monkeypatch):
    journal = open_journal()
    close(journal, 1)
    (path,) = segments_in(tmp_path)
    whole, pwrite = path.read_bytes(), os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:5], at))
    with pytest.raises(OSError, match="only a part"):
        close(journal, 2)
    monkeypatch.undo()
    assert path.read_bytes() == whole
    close(journal, 3)
    assert ids(journal.batch()) == ["req-000001", "req-000003"]


def test_a_disk_without_room_for_what_was_open_is_asked_again(open_journal, monkeypatch, caplog):
    write(open_journal(), opened(1))
    open_journal.kill()
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: 0)
    with pytest.raises(OSError, match="only a part"):
        open_journal()
    monkeypatch.undo()
    assert taken(open_journal()).keys() == {"req-000001"}


def test_records_of_an_earlier_version_are_taken_over(open_journal, tmp_path, caplog):
    lines = [msgspec.json.encode(usage(n)) + b"\n" for n in range(1200)]
    legacy = tmp_path / room.LEGACY
    legacy.write_bytes(b"".join(lines) + b"\x00\xff\n{torn")
    journal = open_journal()
    assert not legacy.exists()
    assert len(taken(journal)) == 1200
    assert caplog.text.count("damaged usage record") == 2


def test_files_are_for_their_owner_only(open_journal, tmp_path):
    close(open_journal(), 1)
    (path,) = segments_in(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_column_is_named_by_process_and_start():
    name = column_of(os.getpid(), "ab12")
    assert name.startswith(f"usage-{os.getpid()}-")
    assert name == column_of(os.getpid(), "ab12")
