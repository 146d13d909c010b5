"""What every store promises of budgets: what was lent and what was metered outlive it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from madang.ports import Store
from madang.resources.rights import CONTROL
from madang.traffic.leases import Asked, Want

from .test_store import LAB, MakeStore, make, opened, store, usage

__all__ = ["make", "store"]


def asked(boot: str, number: int = 1) -> Asked:
    return Asked("gateway", boot, number, ())


async def test_what_was_lent_and_what_was_metered_outlive_the_store(
    make: MakeStore,
    tmp_path: Path,
) -> None:
    record = msgspec.structs.replace(usage(1), id="req-one-1", key_uid="key-1", at=86_400.0)
    want = Want("key/key-1", "tokens_per_day", 1)
    async with opened(make(tmp_path)) as store:
        (lent,) = await store.lend(CONTROL, asked("one"), [(want, 1000)])
        assert (lent.lent, lent.beyond) == (50, 950)
        await store.record_usage(CONTROL, [record, record])
    async with opened(make(tmp_path)) as store:
        await store.record_usage(CONTROL, [record])
        rows = {(r.owner, r.holder): r for r in await store.spent(CONTROL, 1, 197001)}
        assert {owner for owner, _ in rows} == {
            "key/key-1", "project/org/team", "organization/org",
        }  # fmt: skip
        assert rows["key/key-1", ""].used == 3
        assert (rows["key/key-1", "one"].lent, rows["key/key-1", "one"].used) == (50, 3)
        (again,) = await store.lend(CONTROL, asked("two"), [(want, 1000)])
        assert again.lent == (1000 - 50) // 20, "what the first was lent may still be spent"
        second = msgspec.structs.replace(record, id="req-two-1")
        await store.record_usage(CONTROL, [second])
        holders = {r.holder for r in await store.spent(CONTROL, 1, 197001) if r.owner == want.owner}
        assert holders == {"", "two"}
        late = msgspec.structs.replace(record, id="req-two-2", at=3 * 86_400.0)
        await store.record_usage(CONTROL, [late])
        assert not await store.spent(CONTROL, 0, 0)


async def test_who_sees_a_place_sees_its_budgets(store: Store) -> None:
    await store.record_usage(CONTROL, [msgspec.structs.replace(usage(1), payer="x/y", at=1.0)])
    assert await store.spent(CONTROL, 0, 197001)
    assert not await store.spent(LAB, 0, 197001)


async def test_many_budgets_are_lent_in_one_question(store: Store) -> None:
    wants = [(Want(f"key/k{n}", "tokens_per_day", 1), 100) for n in range(500)]
    assert [each.lent for each in await store.lend(CONTROL, asked("a"), wants)] == [5] * 500
    assert len(await store.spent(CONTROL, 1, 1)) == 500
