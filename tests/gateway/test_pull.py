"""When a table may be served, and when control counts as heard."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from madang.clocks import SystemClock
from madang.errors import Corrupt, Unavailable
from madang.gateway.line import ControlLine
from madang.gateway.pull import Puller, TableFile
from madang.traffic.desk import Desk
from madang.traffic.limits import Limits
from madang.traffic.table import Pull


class Line:
    """A control that says what it is told to say."""

    def __init__(self):
        self.says = (204, b"")

    async def post(self, path, body, timeout_s):
        return self.says


@pytest.fixture
def line():
    return Line()


@pytest.fixture
def desk():
    return Desk(Limits())


@pytest.fixture
def file(tmp_path):
    return TableFile(tmp_path / "table.json")


@pytest.fixture
def puller(line, desk, file):
    return Puller("gw", desk, file, line, SystemClock())


def heard(desk):
    health = msgspec.json.decode(desk.health(time.monotonic()))
    return health["control_heard_s_ago"] is not None


async def test_a_table_is_on_disk_before_it_is_served(puller, line, desk, file, table, monkeypatch):
    line.says = (200, msgspec.json.encode(table(version=2)))
    served_while_saving = []
    save = file.save

    def watched(data):
        served_while_saving.append(desk.version)
        save(data)

    monkeypatch.setattr(file, "save", watched)
    assert await puller._pull()
    assert served_while_saving == [0]
    assert file.load() == table(version=2)


async def test_a_table_that_no_disk_takes_is_served_and_no_older_one_is_left_there(
    puller, line, desk, file, table
):
    line.says = (200, msgspec.json.encode(table(version=1)))
    await puller._pull()
    file._path.with_suffix(".new").mkdir()
    line.says = (200, msgspec.json.encode(table(version=2)))
    assert await puller._pull()
    assert desk.version == 2
    assert file.load() is None, "a restart must not bring back a key that was revoked"
    file._path.with_suffix(".new").rmdir()
    line.says = (200, msgspec.json.encode(table(version=3)))
    assert await puller._pull()
    assert file.load() == table(version=3)


async def test_a_state_made_anew_is_believed_although_its_tables_count_from_one(
    puller, line, desk, file, table
):
    desk.take(msgspec.structs.replace(table(version=900), store="lost"))
    fresh = msgspec.structs.replace(table(version=1), store="anew")
    line.says = (200, msgspec.json.encode(fresh))
    assert await puller._pull()
    assert (desk.version, file.load()) == (1, fresh)
    assert desk.pull("gw", 0, 0).store == "anew"


@pytest.mark.parametrize("says", [(500, b""), (404, b"{}"), (200, b""), (200, b'{"version": "x"}')])
async def test_an_answer_without_a_table_is_no_answer(puller, line, desk, table, says):
    desk.take(table(version=1))
    line.says = says
    with pytest.raises(Unavailable):
        await puller._pull()
    assert desk.version == 1
    assert not heard(desk)


@pytest.mark.parametrize("version", [1, 2, None])
async def test_an_answer_without_news_counts_as_heard(puller, line, desk, table, version):
    desk.take(table(version=2))
    if version:
        line.says = (200, msgspec.json.encode(table(version=version)))
    assert not await puller._pull()
    assert desk.version == 2
    assert heard(desk)


async def test_a_field_of_a_newer_control_does_no_harm(puller, line, desk, table):
    newer = {**msgspec.to_builtins(table(version=7)), "prices": {}}
    line.says = (200, msgspec.json.encode(newer))
    assert await puller._pull()
    assert desk.version == 7


async def test_a_control_that_is_not_there_is_unavailable(tmp_path):
    line = ControlLine(tmp_path / "absent")
    for _ in range(2):
        with pytest.raises(Unavailable, match="control-unreachable"):
            await line.post("/internal/routes", b"{}", 1.0)


def test_a_table_that_a_newer_gateway_kept_is_refused_and_stays(file, tmp_path):
    newer = b'{"form": 2, "version": "of another kind"}'
    (tmp_path / "table.json").write_bytes(newer)
    with pytest.raises(Corrupt) as raised:
        file.load()
    assert (raised.value.code, raised.value.values["found"]) == ("file.newer", 2)
    assert {path.name for path in tmp_path.iterdir()} == {"table.json"}
    assert (tmp_path / "table.json").read_bytes() == newer


async def test_a_table_of_a_newer_control_is_not_taken_and_the_cause_is_named(puller, line, desk):
    line.says = (200, b'{"form": 2, "version": "of another kind"}')
    with pytest.raises(Unavailable) as raised:
        await puller._pull()
    assert raised.value.code == "gateway.control-newer"
    assert desk.version == 0


def test_a_table_without_a_form_is_of_the_first(file, tmp_path, table):
    told = msgspec.json.decode(msgspec.json.encode(table(version=4)))
    assert told.pop("form") == 1
    (tmp_path / "table.json").write_bytes(msgspec.json.encode(told))
    assert file.load() == table(version=4)


def test_a_table_with_a_field_that_there_is_no_more_is_read(file, tmp_path, table):
    told = msgspec.json.decode(msgspec.json.encode(table(version=4)))
    told["endpoints"][0]["targets"] = [{"uid": "a", "epoch": 1, "url": "http://a", "token": "t",
                                        "load_s": 0.0, "kv_tokens": 8}]  # fmt: skip
    (tmp_path / "table.json").write_bytes(msgspec.json.encode(told))
    (target,) = file.load().endpoints[0].targets
    assert (target.uid, target.kv_tokens) == ("a", 8)


class Patient(Line):
    """A control that answers when it is told to, and remembers what it was asked."""

    def __init__(self):
        super().__init__()
        self.asked, self.left = [], 0
        self.came, self.answers = asyncio.Event(), asyncio.Event()

    async def post(self, path, body, timeout_s):
        self.asked.append(msgspec.json.decode(body, type=Pull))
        self.came.set()
        try:
            await self.answers.wait()
        except asyncio.CancelledError:
            self.left += 1
            raise
        return self.says

    async def until_asked(self):
        await self.came.wait()
        self.came.clear()


async def test_a_request_that_waits_for_a_first_replica_ends_a_poll_that_can_not_tell_of_it(
    desk, file
):
    line = Patient()
    puller = Puller("gw", desk, file, line, SystemClock())
    pulling = asyncio.create_task(puller.run())
    await line.until_asked()
    desk.hurry()
    await line.until_asked()
    assert (len(line.asked), line.left) == (2, 1)
    pulling.cancel()
    await asyncio.gather(pulling, return_exceptions=True)
    assert line.left == 2, "a poll ends with whoever asked"


async def test_a_poll_that_fails_is_told_as_it_failed(puller, line, desk):
    async def post(path, body, timeout_s):
        raise Unavailable("gateway.control-unreachable", reason="gone")

    line.post = post
    with pytest.raises(Unavailable):
        await puller._pull()
