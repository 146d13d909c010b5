"""Usage between memory, disk and control, with a disk and a control that fail."""

from __future__ import annotations

import asyncio
from unittest.mock import Mock

import msgspec
import pytest

from madang.errors import Unavailable
from madang.gateway import spool as room
from madang.gateway.journal import Journal, segments_in, waiting_in
from madang.gateway.spool import Spool
from madang.traffic.account import Opened
from madang.traffic.table import Usage


class Clock:
    """No waiting."""

    def __init__(self):
        self.now_s = 0.0

    def now(self):
        return 1e9 + self.now_s

    def monotonic(self):
        return self.now_s

    async def sleep(self, seconds):
        self.now_s += seconds
        await asyncio.sleep(0)


class Line:
    """A control that takes usage unless it is away."""

    def __init__(self):
        self.away = False
        self.taken = []
        self.records = []
        self.batches = []
        self.asked = []
        self.cursor = None

    async def post(self, path, body, timeout_s):
        if self.away:
            raise Unavailable("gateway.control-unreachable")
        self.asked.append(path)
        self.records += msgspec.json.decode(body)
        batch = [each["id"] for each in msgspec.json.decode(body)]
        self.batches.append(len(batch))
        self.taken += batch
        return 200, b"" if self.cursor is None else msgspec.json.encode({"cursor": self.cursor})

    async def close(self):
        pass


def usage(number):
    return Usage(f"req-{number}", 1.0, "k", "p", "e", "r", 1, 0, 1, 200, 0.5)


@pytest.fixture
def line():
    return Line()


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path, "usage-1-1-ab")


@pytest.fixture
async def spool(journal, line):
    made = Spool(journal, line, Clock())
    loops = (made.write(), made.deliver(), made.recover())
    tasks = [asyncio.create_task(each) for each in loops]
    yield made
    for task in tasks:
        task.cancel()
    await made.close()


async def test_everything_recorded_is_delivered_once(spool, line, eventually):
    for number in range(1200):
        spool.record(usage(number))
    await eventually(lambda: len(line.taken) >= 1200)
    assert line.taken == [f"req-{number}" for number in range(1200)]
    assert max(line.batches) <= 500


async def test_records_outlast_a_disk_that_fails_for_a_while(
    spool, journal, line, monkeypatch, eventually
):
    append, failures, told = journal.append, [OSError("full"), OSError("full")], []

    def sometimes(group):
        told.append(spool.trouble())
        if failures:
            raise failures.pop()
        append(group)

    monkeypatch.setattr(journal, "append", sometimes)
    spool.record(usage(1))
    await eventually(lambda: not failures)
    spool.record(usage(2))
    await eventually(lambda: len(line.taken) == 2)
    assert line.taken == ["req-1", "req-2"]
    await eventually(lambda: spool.trouble() == (0, ""))
    assert told[:3] == [(0, ""), (0, "full"), (0, "full")]


async def test_records_outlast_memory_that_runs_out_while_they_are_written(
    tmp_path, line, monkeypatch
):
    made = Spool(Journal(tmp_path, "usage-1-1-ab"), line, Clock())
    made.record(usage(1))
    with monkeypatch.context() as short:
        short.setattr(room, "Group", Mock(side_effect=MemoryError))
        with pytest.raises(MemoryError):
            await made.write()
    made.record(usage(2))
    await made.close()
    assert line.taken == ["req-1", "req-2"]


async def test_what_memory_can_not_hold_is_counted_as_lost(spool, journal, monkeypatch):
    monkeypatch.setattr(room, "WAITING_RECORDS_MAX", 2)
    for number in range(5):
        spool.record(usage(number))
    journal.lost = 2
    assert spool.trouble() == (3 + 2, ""), "in memory, and for want of room on disk"


async def test_control_gets_what_it_missed(spool, line, eventually):
    line.away = True
    spool.record(usage(1))
    await asyncio.sleep(0)
    spool.record(usage(2))
    line.away = False
    await eventually(lambda: len(line.taken) == 2)


async def test_the_last_records_are_on_disk_when_it_closes(tmp_path, line):
    line.away = True
    made = Spool(Journal(tmp_path, "usage-1-1-ab"), line, Clock())
    made.record(usage(1))
    await made.close()
    assert waiting_in(tmp_path) == {"req-1"}


class Stream:
    """A request that a replica works on."""

    def __init__(self, number):
        self.id, self.passed = f"req-{number}", 0

    def opened(self, now, at):
        return Opened(msgspec.structs.replace(usage(0), id=self.id, output_tokens=0, at=at))


async def test_what_a_killed_process_had_open_is_settled_at_what_last_passed(
    tmp_path, line, eventually
):
    streams = [Stream(number) for number in range(3)]
    journal = Journal(tmp_path, "usage-1-1-ab")
    first = Spool(journal, Line(), Clock(), lambda: streams)
    await first._flush()
    streams[0].passed = 7
    await first._flush()
    streams[0].passed = 9
    await first._flush()
    first.record(usage(2))
    streams.pop()
    await first._flush()
    for each in journal._all():
        each.let_go()  # as the kernel does
    first._thread.shutdown()
    second = Spool(Journal(tmp_path, "usage-2-1-cd"), line, Clock())
    tasks = [asyncio.create_task(each) for each in (second.deliver(), second.recover())]
    await eventually(lambda: len(line.records) == 3)
    for task in tasks:
        task.cancel()
    await second.close()
    told = {each["id"]: (each["output_tokens"], each["estimated"]) for each in line.records}
    assert told == {"req-0": (9, True), "req-1": (0, True), "req-2": (1, False)}


async def test_a_request_that_is_over_before_the_next_write_is_one_line(tmp_path, line):
    made = Spool(Journal(tmp_path, "usage-1-1-ab"), line, Clock())
    for number in range(3):
        made.record(usage(number))
    await made._flush()
    (path,) = segments_in(tmp_path)
    assert path.read_bytes().count(b"\n") == 3
    await made.close()


async def test_control_that_has_more_than_we_know_is_believed(tmp_path, line):
    made = Spool(Journal(tmp_path, "usage-1-1-ab"), line, Clock())
    for number in range(3):
        made.record(usage(number))
    line.cursor = 1 << 40
    await made._flush()
    while await made._deliver_batch(1):
        pass
    assert line.batches == [3]
    (path,) = segments_in(tmp_path)
    where = f"segment={path.name}&start=0&end={path.stat().st_size}"
    assert line.asked == [f"/internal/usage?{where}"]
    await made.close()


async def test_records_wait_while_the_writer_is_stopped_in_the_middle(tmp_path, line):
    made = Spool(Journal(tmp_path, "usage-1-1-ab"), line, Clock())
    writing = asyncio.create_task(made.write())
    for number in range(20):
        made.record(usage(number))
        await asyncio.sleep(0)
        if number == 10:
            writing.cancel()
    await made.close()
    assert sorted(line.taken) == sorted(f"req-{number}" for number in range(20))


async def test_it_is_said_once_a_minute_that_control_is_away(spool, line, caplog, eventually):
    line.away = True
    spool.record(usage(1))
    await eventually(lambda: caplog.text.count("control takes no usage") >= 2)
    line.away = False
    await eventually(lambda: line.taken)
    assert caplog.text.count("control takes no usage") <= spool._clock.now_s / room.AWAY_S
