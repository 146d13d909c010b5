"""Leases while memory runs out: nothing is lent twice or lost, and it is asked for again."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from msgspec import json

from madang.gateway import lease as room
from madang.gateway.lease import Lessee
from madang.traffic.desk import Desk
from madang.traffic.leases import DAY, Asked, Lent, Want
from madang.traffic.limits import Limits
from madang.traffic.table import Allowance, Endpoint, Key, RouteTable, Target

from .test_spool import Clock

LIMIT, PART = 800, 40
KEY = Key("app", "p", "member", uid="key-1", may_infer=True,
          limits=Allowance(tokens_per_day=LIMIT))  # fmt: skip
ENDPOINT = Endpoint("p", "bot", "bot", (Target("a", 1, "http://a", "t", 8),), 4096)
TABLE = RouteTable(1, (ENDPOINT,), {"digest": KEY})
BODY = b'{"model":"bot","messages":[{"role":"user","content":"hi"}],"max_tokens":8}'


class Line:
    """A control that lends a part more at each question, by what it is told was lent."""

    def __init__(self):
        self.asked = []
        self.refuses = False

    async def post(self, path, body, timeout_s):
        if self.refuses:
            raise MemoryError
        asked = json.decode(body, type=Asked)
        self.asked.append(asked)
        lents = [Lent(w.owner, w.what, w.period, w.lent + PART, LIMIT) for w in asked.wants]
        return 200, json.encode(lents)


@pytest.fixture
def line():
    return Line()


@pytest.fixture
def desk():
    made = Desk(Limits())
    made.take(TABLE)
    return made


@pytest.fixture
def lessee(desk, line):
    return Lessee(("gw", "boot"), desk, line, Clock())


def no_memory(*_args, **_named):
    raise MemoryError


def write_nothing(short, _line):
    short.setattr(room, "json", SimpleNamespace(encode=no_memory, decode=json.decode))


def read_nothing(short, _line):
    short.setattr(room, "json", SimpleNamespace(encode=json.encode, decode=no_memory))


def send_nothing(short, line):
    short.setattr(line, "refuses", True)


@pytest.mark.parametrize("hit", [write_nothing, send_nothing, read_nothing])
async def test_a_lease_asked_for_without_memory_is_missed_and_asked_for_again(
    hit, lessee, desk, line, monkeypatch
):
    with monkeypatch.context() as short:
        hit(short, line)
        await lessee.prepare(TABLE)
    before = len(line.asked)
    desk.hear(0)
    told = asyncio.get_running_loop().create_future()
    exchange = desk.admit("req-boot-1", KEY, "chat", BODY, 0)
    assert desk.start(exchange, told.set_result, 0) is None, "it waits for a lease"
    running = asyncio.create_task(lessee.run())
    async with asyncio.timeout(20):
        assert await told == ENDPOINT.targets[0]
    running.cancel()
    again = line.asked[before:]
    assert [(want.what, want.lent) for want in again[0].wants] == [(DAY, 0)]
    assert again[0].number == 2, "an answer to the first that comes late is told from this one's"
    purse = desk.budgets.line(KEY)[0].day
    assert purse.lent == len(again) * PART, "what was lent and not heard of counts for nothing"


async def test_a_table_is_served_though_control_lends_too_little_of_what_is_wanted(line):
    """What revokes a key is in that table: no question may be asked for ever before it."""
    never_full = SimpleNamespace(take=lambda _: None, wants=lambda _: (Want("key/1", DAY, 1),))
    desk = SimpleNamespace(budgets=never_full, lend=lambda *_: None)
    async with asyncio.timeout(20):
        await Lessee(("gw", "boot"), desk, line, Clock()).prepare(TABLE)
    assert len(line.asked) == 1
