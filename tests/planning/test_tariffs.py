"""Tariffs: what tokens take of accelerators is learnt from what was served, and holds for a day."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from madang.months import day_number
from madang.planning.action import Verb
from madang.planning.explain import explain
from madang.planning.plan import plan
from madang.planning.snapshot import Load
from madang.planning.use.tariffs import KEPT, more, rates, weighed
from madang.resources.replica import ReplicaPhase
from madang.resources.resource import Ref
from madang.resources.service import Service
from madang.resources.tariff import Served, Tariff, Tokens
from madang.resources.tenancy import Project, ProjectSpec, ProjectStatus
from madang.testing.builders import PROJECT, model, node, pool, service, snapshot
from madang.testing.paper import Paper

HOUR_S, DAY_S = 3600.0, 86_400.0
NOON = 1_795_050_000.0
"""At the turn of an hour, in the middle of a day of Korea."""
CARD = {"accelerator": "nvidia", "memory": "1GB"}


class Shop(Paper):
    """A world in which a service is asked as much as is said."""

    def serve(self, seconds: float, busy: float, tokens: Tokens) -> None:
        """Let time pass, all replicas that busy; each reads and writes so much in each hour."""
        while seconds > 0:
            step_s = min(HOUR_S / 4, seconds)
            self.wait(step_s)
            part, loads = step_s / HOUR_S, dict(self.snapshot.seen.loads)
            for replica in self.snapshot.replicas.values():
                key = replica.uid, replica.status.epoch
                known = loads.get(key, Load())
                more = tuple(a + round(b * part) for a, b in zip(known.tokens, tokens, strict=True))
                loads[key] = Load(known.known_s + step_s, known.busy_s + step_s * busy, more)  # type: ignore[arg-type]
            self._see(loads=loads)
            for _ in range(8):
                if not self.turn().actions:
                    break
            seconds -= step_s

    @property
    def bot(self) -> Service:
        return self.snapshot.services[Ref(PROJECT, "bot")]

    @property
    def tariff(self) -> Tariff:
        assert self.bot.status.tariff
        return self.bot.status.tariff

    def told(self) -> list[str]:
        return [reason.code for reason in explain(self.bot, self.snapshot).findings]

    def changes(self) -> int:
        return sum(a.verb is Verb.PRICE_SERVICE for done in self.done for a in done.actions)


def open_shop(*, krw: float = 3600.0, watts: bool = True, **spec: Any) -> Shop:
    """One replica on a card that costs 3,600 won an hour and draws 700 W."""
    own = Project(project=PROJECT, name="demo", uid="p", spec=ProjectSpec(), status=ProjectStatus())
    told: dict[str, Any] = {"price_krw_per_hour": {"nvidia": krw}} if krw else {}
    if watts:
        told["watts"] = {"nvidia": {"idle": 60, "full": 700}}
    shop = Shop(
        snapshot(
            [own, pool(**told)], node("a", cards=2), model(),
            service("bot", needs=CARD, **spec), now=NOON,
        )
    )  # fmt: skip
    shop.settle(20.0)
    assert [replica.status.phase for replica in shop.replicas("bot")] == [ReplicaPhase.READY]
    return shop


ASKED = (900_000, 400_000, 50_000)
"""In an hour: half a million to read, four tenths of one that had been kept, and a little written:

800,000 as if all were read.
"""


def test_tokens_cost_what_their_accelerators_cost_while_they_are_busy() -> None:
    shop = open_shop()
    shop.serve(4 * HOUR_S, 0.5, ASKED)
    krw = shop.tariff.krw
    assert krw is not None
    each = 3600 * 0.5 / 800_000 * 1e6
    assert (krw.input, krw.cached, krw.output) == pytest.approx(
        (each, each / 4, each * 4), rel=0.01
    )
    bill = (500_000 * krw.input + 400_000 * krw.cached + 50_000 * krw.output) / 1e6
    assert bill == pytest.approx(3600 * 0.5, rel=0.01), "an hour's tokens pay for its busy half"


def test_watt_hours_are_those_of_the_rated_power_for_as_long_as_it_was_busy() -> None:
    shop = open_shop(krw=0)
    shop.serve(4 * HOUR_S, 0.5, ASKED)
    assert shop.tariff.krw is None
    (kind,) = shop.tariff.kinds
    assert kind.wh == shop.tariff.wh
    assert kind.wh is not None
    assert kind.wh.input == pytest.approx(700 * 0.5 / 0.8, rel=0.01)
    assert shop.told() == ["price.wh-of-kind"]


def test_of_a_kind_of_which_nobody_says_what_it_draws_nothing_is_told() -> None:
    shop = open_shop(watts=False)
    shop.snapshot = shop.snapshot.after(
        [
            each.model_copy(update={"spec": each.spec.model_copy(update={"watts": None})})
            for each in shop.snapshot.accelerators.values()
        ]
    )
    shop.serve(4 * HOUR_S, 0.5, ASKED)
    assert shop.tariff.krw
    assert shop.tariff.wh is None
    assert shop.told() == ["price.derived", "price.of-kind"]


def test_a_price_holds_for_a_day_whatever_is_served_and_whatever_a_pool_names_meanwhile() -> None:
    shop = open_shop()
    shop.serve(2 * HOUR_S, 0.5, ASKED)
    first = shop.tariff
    shop.snapshot = shop.snapshot.after([pool(price_krw_per_hour={"nvidia": 7200})])
    shop.serve(3 * HOUR_S, 0.1, ASKED)
    assert shop.tariff == first
    shop.serve(DAY_S, 0.1, ASKED)
    assert shop.tariff.day == first.day + 1
    assert shop.tariff != first
    assert shop.changes() == 2


def test_the_same_price_again_is_no_news() -> None:
    shop = open_shop()
    shop.serve(3 * DAY_S, 0.5, (800_000, 0, 0))
    assert shop.tariff.day > day_number(NOON)
    assert shop.changes() == 1


def test_a_price_in_the_file_is_the_price_and_nothing_is_told_of_another() -> None:
    shop = open_shop(price={"input": 300, "cached": 75, "output": 1200})
    shop.serve(4 * HOUR_S, 0.5, ASKED)
    assert shop.changes() == 0
    assert shop.told() == ["price.set", "price.wh-of-kind"]
    assert shop.tariff.krw, "it is there as soon as the file says no more"


def test_too_little_makes_no_price() -> None:
    shop = open_shop()
    shop.serve(4 * HOUR_S, 0.5, (100, 0, 0))
    assert shop.bot.status.tariff is None
    assert shop.told() == []
    shop = open_shop()
    shop.serve(4 * HOUR_S, 0.0, ASKED)
    assert shop.bot.status.tariff is None, "in no time at all"


def test_a_clock_that_was_set_back_makes_no_other_price_for_a_day_that_had_one() -> None:
    shop = open_shop()
    shop.serve(2 * HOUR_S, 0.5, ASKED)
    first = shop.tariff
    shop.snapshot = replace(shop.snapshot, now=shop.now - 2 * DAY_S)
    shop.serve(5 * HOUR_S, 0.1, ASKED)
    assert shop.tariff == first


def test_where_pools_name_no_price_any_more_tokens_cost_nothing_from_the_next_day() -> None:
    shop = open_shop()
    shop.serve(2 * HOUR_S, 0.5, ASKED)
    shop.snapshot = shop.snapshot.after([pool()])
    shop.serve(DAY_S, 0.5, ASKED)
    assert shop.tariff.krw is None
    (*_, last) = (
        a for done in shop.done for a in done.actions if a.verb is Verb.PRICE_SERVICE
    )  # fmt: skip
    assert last.reason.code == "price.none"


def test_what_was_served_by_another_control_counts_once() -> None:
    shop = open_shop()
    shop.serve(2 * HOUR_S, 0.5, ASKED)
    then = shop.bot.status.served
    shop.snapshot = replace(shop.snapshot, term=shop.snapshot.term + 1)
    shop._see(loads={})
    shop.serve(2 * HOUR_S, 0.0, (0, 0, 0))
    assert shop.bot.status.served == then


def test_a_replica_that_is_let_go_leaves_what_it_did() -> None:
    shop = open_shop()
    shop.serve(1.6 * HOUR_S, 0.5, ASKED)
    shop.snapshot = shop.snapshot.after(
        [
            shop.bot.model_copy(
                update={
                    "generation": shop.bot.generation + 1,
                    "spec": shop.bot.spec.model_copy(update={"scale": 0}),
                }
            )
        ]
    )
    shop.settle(40.0)
    assert not any(replica.status.accelerators for replica in shop.replicas("bot"))
    (served,) = shop.bot.status.served
    assert served.prompt == pytest.approx(1.6 * ASKED[0], rel=0.05)


counts = st.integers(min_value=0, max_value=10**12)


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b"]), counts, st.tuples(counts, counts, counts)))
)  # fmt: skip
def test_sums_are_exact_in_whatever_order(parts: list[tuple[str, int, Tokens]]) -> None:
    forth: tuple[Served, ...] = ()
    back: tuple[Served, ...] = ()
    for kind, busy, tokens in parts:
        forth = more(forth, ("main", kind), busy, tokens)
    for kind, busy, tokens in reversed(parts):
        back = more(back, ("main", kind), busy, tokens)
    assert forth == back
    assert sum(each.busy for each in forth) == sum(busy for _, busy, _ in parts)
    assert sum(each.prompt for each in forth) == sum(tokens[0] for _, _, tokens in parts)


@given(counts, counts, counts, st.floats(min_value=1, max_value=1e9))
def test_what_was_served_pays_what_it_cost(
    prompt: int, cached: int, output: int, won: float
) -> None:
    served = Served(
        pool="main", accelerator="a", prompt=prompt, cached=min(cached, prompt), output=output
    )
    if not weighed(served):
        return
    each = rates(won, weighed(served))
    fresh = served.prompt - served.cached
    paid = (fresh * each.input + served.cached * each.cached + output * each.output) / 1e6
    assert paid == pytest.approx(won, rel=0.002)


def test_what_is_older_counts_less() -> None:
    shop = open_shop()
    shop.serve(6 * HOUR_S, 0.5, ASKED)
    (before,) = shop.bot.status.served
    shop.serve(10 * HOUR_S, 0.0, (0, 0, 0))
    (after,) = shop.bot.status.served
    assert after.prompt <= round(before.prompt * KEPT) + ASKED[0]
    assert not plan(shop.snapshot).actions
