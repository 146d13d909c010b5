"""What was used, added up: each record once, by whom it is paid, however it was delivered."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madang.resources.bill import Span, Used
from madang.resources.rights import CONTROL
from madang.traffic.price import day_of, micro_of
from madang.traffic.table import Price, Usage

from .test_store import EXAMPLES, LAB, make, opened, usage

__all__ = ["make"]

MakeStore = Callable[[Path], Any]
DAY_S = 86_400.0
COUNTS = (
    "requests", "estimated", "prompt_tokens", "cached_tokens", "output_tokens", "micro_krw",
    "micro_wh",
)  # fmt: skip
EVER = range(1 << 22)


def used(number: int, **fields: Any) -> Usage:
    return msgspec.structs.replace(
        usage(number), **{"payer": "org/team", "key_uid": "k1", **fields}
    )


def summed(records: list[Usage]) -> Counter[str]:
    """What anybody would add up by hand."""
    found: Counter[str] = Counter()
    for each in records:
        found.update({
            "requests": 1, "estimated": int(each.estimated), "prompt_tokens": each.prompt_tokens,
            "cached_tokens": each.cached_tokens, "output_tokens": each.output_tokens,
            "micro_krw": micro_of(each.krw), "micro_wh": micro_of(each.wh),
        })  # fmt: skip
    return found


def told(lines: list[Used]) -> Counter[str]:
    found: Counter[str] = Counter()
    for each in lines:
        found.update({name: getattr(each, name) for name in COUNTS})
    return found


async def test_sums_are_by_day_model_and_key_of_whoever_pays(
    make: MakeStore, tmp_path: Path
) -> None:
    records = [
        used(1, at=0.0, model="tiny", krw=0.27, price=Price(270_000, 0.5, 0), wh=0.002),
        used(2, at=0.0, model="big", key="b", key_uid="k2", estimated=True, krw=1.5, wh=0.5),
        used(3, at=DAY_S, model="tiny", krw=0.1),
        used(4, at=DAY_S, model="tiny", key="k", key_uid="k9"),
        msgspec.structs.replace(usage(5), at=DAY_S, payer="x/y", project="org/team"),
        msgspec.structs.replace(usage(6), at=5 * DAY_S),
    ]
    async with opened(make(tmp_path)) as store:
        await store.record_usage(CONTROL, records)
    async with opened(make(tmp_path)) as store:
        days = await store.used(CONTROL, range(5), None, "day")
        assert [(d.project, d.day, d.requests, d.estimated, d.micro_krw) for d in days] == [
            ("org/team", 0, 2, 1, 1_770_000), ("org/team", 1, 2, 0, 100_000), ("x/y", 1, 1, 0, 0),
        ]  # fmt: skip
        assert [d.micro_wh for d in days] == [502_000, 0, 0]
        models = await store.used(CONTROL, range(5), "org/team", "model")
        assert [(m.model, m.requests) for m in models] == [("big", 1), ("tiny", 3)]
        keys = await store.used(CONTROL, range(5), "org/team", "key")
        assert [(k.key, k.key_uid, k.requests) for k in keys] == [
            ("b", "k2", 1), ("k", "k1", 2), ("k", "k9", 1),
        ]  # fmt: skip
        assert await store.used(CONTROL, range(2, 5), None, "day") == []
        late = await store.used(CONTROL, range(5, 6), None, "day")
        assert [each.project for each in late] == ["org/team"], "a record of before: the endpoint's"


async def test_whose_key_it_was_is_told_and_nobody_else(make: MakeStore, tmp_path: Path) -> None:
    shared = msgspec.structs.replace(usage(2), payer="x/y", project="org/team")
    async with opened(make(tmp_path)) as store:
        await store.record_usage(CONTROL, [used(1), shared])
        lines = await store.used(LAB, EVER, None, "key")
        assert {each.project for each in lines} == {"org/team"}
        assert await store.used(LAB, EVER, "x/y", "key") == []


async def test_a_part_of_a_file_is_taken_once(make: MakeStore, tmp_path: Path) -> None:
    async with opened(make(tmp_path)) as store:
        assert await store.usage_mark(CONTROL, "usage-a") == 0
        await store.record_usage(CONTROL, [used(1), used(2)], Span("usage-a", 0, 20))
        assert await store.usage_mark(CONTROL, "usage-a") == 20
        await store.record_usage(CONTROL, [used(7)], Span("usage-a", 10, 30))
        await store.record_usage(CONTROL, [used(3)], Span("usage-b", 0, 10))
    async with opened(make(tmp_path)) as store:
        assert await store.usage_mark(CONTROL, "usage-a") == 20
        await store.record_usage(CONTROL, [used(4)], Span("usage-a", 20, 30))
        assert told(await store.used(CONTROL, EVER, None, "day"))["requests"] == 4


async def test_sums_stay_when_records_go_and_old_days_become_months(
    make: MakeStore, tmp_path: Path
) -> None:
    records = [used(n, at=n * 10 * DAY_S, krw=n / 1000, output_tokens=n) for n in range(200)]
    async with opened(make(tmp_path)) as store:
        await store.record_usage(CONTROL, records, Span("s", 0, 9))
        whole = await store.record_usage(CONTROL, [])
        for number in range(300):
            await store.record_usage(CONTROL, (), Span("s", 9 + number, 10 + number), 1_900)
        await store.health()
        assert await store.record_usage(CONTROL, []) == whole
        assert told(await store.used(CONTROL, EVER, None, "key")) == summed(records)
        days = await store.used(CONTROL, range(31 + 28), None, "day")
        assert [(each.day, each.requests) for each in days if each.day] in (
            [(31, 2)], [(10, 1), (20, 1), (30, 1), (40, 1), (50, 1)],
        ), "by month, or nothing was let go"  # fmt: skip
        again = await store.record_usage(CONTROL, records[:50], Span("s", 0, 9))
        assert again == whole, "its part of the file was taken, whatever has become of it"


async def test_records_of_a_mad_clock_are_kept_and_read_again(
    make: MakeStore, tmp_path: Path
) -> None:
    records = [used(n, at=at, krw=1.0) for n, at in enumerate((-0.0, 1e308, -1e308))]
    async with opened(make(tmp_path)) as store:
        await store.record_usage(CONTROL, records)
        await store.health()
        days = await store.used(CONTROL, EVER, None, "day")
        assert [(each.day, each.requests) for each in days] == [(0, 2), (2_932_896, 1)]


KEYS = st.sampled_from([("a", "k1"), ("b", "k2"), ("a", "k3")])
RECORDS = st.lists(
    st.builds(
        dict,
        at=st.floats(-1e9, 4e9) | st.floats(allow_nan=False, allow_infinity=False),
        key=KEYS,
        payer=st.sampled_from(["org/team", "org/other", "x/y", ""]),
        model=st.sampled_from(["tiny", "민원", "a/b@2", '"']),
        prompt_tokens=st.integers(0, 2**40),
        cached_tokens=st.integers(0, 2**40),
        output_tokens=st.integers(0, 2**40),
        krw=st.floats(0, 1e8),
        estimated=st.booleans(),
    ),
    min_size=1,
    max_size=12,
)
STEPS = st.lists(
    st.tuples(st.sampled_from(["deliver", "lost", "crash", "again"]), st.integers(1, 4),
              st.integers(0, 20_000)),
    max_size=12,
)  # fmt: skip


def test_sums_equal_the_records_after_any_history_of_deliveries_and_crashes(
    make: MakeStore, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    serial = count()

    @settings(max_examples=EXAMPLES[request.node.callspec.params["make"]], deadline=None)
    @given(RECORDS, STEPS)
    def run(fields: list[dict[str, Any]], steps: list[tuple[str, int, int]]) -> None:
        records = [
            msgspec.structs.replace(
                usage(n), **{**each, "key": each["key"][0], "key_uid": each["key"][1]}
            )
            for n, each in enumerate(fields)
        ]
        asyncio.run(_delivered(make, tmp_path / str(next(serial)), records, steps))

    run()


async def _delivered(
    make: MakeStore, folder: Path, records: list[Usage], steps: list[tuple[str, int, int]]
) -> None:
    """Deliver from a file as a gateway does: it goes on where it was told that control is."""
    at, store = 0, make(folder)
    await store.open()
    try:
        for what, size, keep_from in [*steps, ("deliver", len(records), 0)]:
            end = min(len(records), at + size)
            if what == "again":
                at = 0
            elif what == "crash":
                await store.close()
                store = make(folder)
                await store.open()
            elif at < end:
                mark = await store.usage_mark(CONTROL, "file")
                if at < mark:
                    at = mark
                    continue
                span = Span("file", at, end)
                await store.record_usage(CONTROL, records[at:end], span, keep_from)
                at = end if what == "deliver" else at
        mark = await store.usage_mark(CONTROL, "file")
        await store.record_usage(CONTROL, records[mark:], Span("file", mark, len(records) + 1))
        for by in ("day", "model", "key"):
            assert told(await store.used(CONTROL, EVER, None, by)) == summed(records)
        days = await store.used(CONTROL, EVER, None, "day")
        assert {d.day for d in days} >= {day_of(r) for r in records if day_of(r) > 20_000}
        await store.health()
    finally:
        await store.close()
