"""From a spec to a shape: memory decides how much context and how many slots a replica gets."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import given

from madang.planning.template import (
    CONTEXT_TOKENS_MIN,
    Shape,
    Unmet,
    choose_engine,
    least_bytes,
    pin,
    shape_of,
)
from madang.resources.quantity import size_bytes
from madang.testing.builders import FAKE, GB, model, node, service, snapshot

CAREFUL = replace(FAKE, overhead_bytes=GB // 10, context_tokens=8192)
WEIGHTS = model(size_gb=2).status.versions[0].model_copy(update={"kv_bytes_per_token": 100_000})


def test_without_a_given_memory_nothing_is_cut() -> None:
    shape = shape_of(WEIGHTS, CAREFUL, None)
    assert shape == Shape(2 * GB + GB // 10 + 8192 * 100_000, 8192, 4)


def test_little_memory_costs_context_first_then_slots() -> None:
    tight = shape_of(WEIGHTS, CAREFUL, 2 * GB + GB // 10 + 5000 * 100_000)
    assert isinstance(tight, Shape)
    assert tight.context_tokens == 5000 // CONTEXT_TOKENS_MIN * CONTEXT_TOKENS_MIN
    assert tight.slots == 2


def test_too_little_memory_is_refused_with_the_least_that_works() -> None:
    unmet = shape_of(WEIGHTS, CAREFUL, 2 * GB)
    assert isinstance(unmet, Unmet)
    assert unmet.fix is not None
    enough = size_bytes(unmet.fix.values["memory"])
    assert isinstance(shape_of(WEIGHTS, CAREFUL, enough), Shape)


@given(st.integers(0, 10**11))
def test_a_shape_never_takes_more_than_it_was_given(given_bytes: int) -> None:
    shape = shape_of(WEIGHTS, CAREFUL, given_bytes)
    if isinstance(shape, Shape):
        assert shape.memory_bytes <= given_bytes
        assert shape.context_tokens >= CONTEXT_TOKENS_MIN
        assert 1 <= shape.slots <= CAREFUL.slots
    else:
        assert given_bytes < least_bytes(WEIGHTS, CAREFUL)


def test_an_engine_that_is_not_installed_is_not_chosen() -> None:
    absent = replace(FAKE, version="")
    assert choose_engine("", WEIGHTS, [absent]) is None
    assert choose_engine("fake", WEIGHTS, [absent, FAKE]) == FAKE
    assert choose_engine("other", WEIGHTS, [FAKE]) is None


def test_memory_is_asked_per_accelerator() -> None:
    world = snapshot(node("n", cards=2), model(size_gb=10))
    pinned = pin(service(needs={"count": 2}), world)
    assert not isinstance(pinned, Unmet)
    assert pinned.memory_bytes == 5 * GB
    assert pinned.gate == ("smoke",)
