"""Usage between memory, disk and control, with a disk and a control that fail."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from madang.errors import Unavailable
from madang.gateway import spool as room
from madang.gateway.journal import Journal
from madang.gateway.spool import Spool
from madang.traffic.table import Usage


class Clock:
    """No waiting."""

    async def sleep(self, seconds):
        await asyncio.sleep(0)


class Line:
    """A control that takes usage unless it is away."""

    def __init__(self):
        self.away = False
        self.taken = []
        self.batches = []

    async def post(self, path, body, timeout_s):
        if self.away:
            raise Unavailable("gateway.control-unreachable")
        batch = [each["id"] for each in msgspec.json.decode(body)]
        self.batches.append(len(batch))
        self.taken += batch
        return 200, b""

    async def close(self):
        pass


def usage(number):
    return Usage(f"req-{number}", 1.0, "k", "p", "e", "r", 1, 0, 1, 200, 0.5)


@pytest.fixture
def line():
    return Line()


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "usage.jsonl")


@pytest.fixture
async def spool(journal, line):
    made = Spool(journal, line, Clock())
    tasks = [asyncio.create_task(made.write()), asyncio.create_task(made.deliver())]
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
    append, failures = journal.append, [OSError("full"), OSError("full")]

    def sometimes(records):
        if failures:
            raise failures.pop()
        append(records)

    monkeypatch.setattr(journal, "append", sometimes)
    spool.record(usage(1))
    await eventually(lambda: not failures)
    spool.record(usage(2))
    await eventually(lambda: len(line.taken) == 2)
    assert line.taken == ["req-1", "req-2"]
    assert spool.lost == 0


async def test_what_memory_can_not_hold_is_counted_as_lost(spool, monkeypatch):
    monkeypatch.setattr(room, "WAITING_RECORDS_MAX", 2)
    for number in range(5):
        spool.record(usage(number))
    assert spool.lost == 3


async def test_control_gets_what_it_missed(spool, line, eventually):
    line.away = True
    spool.record(usage(1))
    await asyncio.sleep(0)
    spool.record(usage(2))
    line.away = False
    await eventually(lambda: len(line.taken) == 2)


async def test_the_last_records_are_on_disk_when_it_closes(tmp_path, line):
    line.away = True
    path = tmp_path / "last.jsonl"
    made = Spool(Journal(path), line, Clock())
    made.record(usage(1))
    await made.close()
    assert path.read_bytes().count(b"\n") == 1
