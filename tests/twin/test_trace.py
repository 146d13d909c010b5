"""Traces as people have them: read whole, or refused with the line and the reason."""

from __future__ import annotations

import pytest

from madang.errors import Rejected
from madang.twin.arrivals import in_time, shuffled
from madang.twin.trace import read_fleet, read_pods

NODES = (
    "sn,cpu_milli,memory_mib,gpu,model\nn1,64000,262144,2,T4\nn0,32000,131072,0,\nn2,9,9,8,A100\n"
)
HEAD = "name,cpu_milli,memory_mib,num_gpu,gpu_milli"


def fleet():
    return read_fleet(NODES.splitlines(), "nodes.csv")


def pods(*rows: str, head: str = HEAD):
    return read_pods([head, *rows], "pods.csv", fleet().kinds)


def test_nodes_lie_by_model_then_name_with_their_devices():
    read = fleet()
    assert [kind.name for kind in read.kinds] == ["-", "A100", "T4"]
    assert read.names == ("n0", "n2", "n1")
    assert [(row >= 0).sum() for row in read.free] == [0, 8, 2]


def test_a_list_with_five_columns_runs_on_any_model_but_on_no_host_without_devices():
    whole, share, none = pods("a,1,2,2,1000", "b,1,2,1,250", "c,1,2,0,0")
    assert whole.demand.parts == (0, 1000, 1000)
    assert (whole.milli, share.milli, none.milli) == (2000, 250, 0)
    assert none.demand.kinds == (0, 1, 2)


def test_a_spec_limits_the_models_and_unknown_ones_fit_nowhere():
    head = HEAD + ",gpu_spec,creation_time"
    some, strange = pods("a,1,2,1,500,T4|V100,7", "b,1,2,1,500,H100,8", head=head)
    assert some.demand.parts == (0, 0, 500)
    assert some.created_s == 7
    assert not any(strange.demand.parts)


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ("a,x,2,1,500", "cpu_milli"), ("a,1,-2,1,500", "memory_mib"), ("a,1,2,,500", "num_gpu"),
        ("a,1,2,1,1001", "gpu_milli"), ("a,1,2,1,0", "gpu_milli"), ("a,1,2,1", "gpu_milli"),
        ("a,99999999999999999999,2,1,1", "cpu_milli"), ("a,1e3,2,1,1", "cpu_milli"),
        ("a,1,2,65,1000", "num_gpu"), ("a,٣,2,1,1", "cpu_milli"),
    ],
)  # fmt: skip
def test_a_bad_row_is_told_with_its_line_and_column(row, column):
    with pytest.raises(Rejected) as refused:
        pods("ok,1,2,1,500", row)
    assert refused.value.code == "twin.bad-row"
    assert refused.value.values["line"] == 3
    assert refused.value.values["column"] == column


def test_missing_columns_are_named():
    with pytest.raises(Rejected) as refused:
        pods(head="name,cpu_milli")
    assert refused.value.values["columns"] == "memory_mib, num_gpu, gpu_milli"


@pytest.mark.parametrize("count", [3, 40])
def test_arrivals_ask_for_the_load_and_hardly_more_or_less_whatever_the_list_is(count):
    listed = pods(*(f"p{i},1,2,1,{100 + 7 * i}" for i in range(count)))
    capacity = 10_000
    arrivals = shuffled(listed, capacity, 1.3, seed=5)
    assert 13_000 - 1_000 <= sum(pod.milli for pod in arrivals) <= 13_000
    assert arrivals == shuffled(listed, capacity, 1.3, seed=5)
    assert arrivals != shuffled(listed, capacity, 1.3, seed=6)


def test_in_order_of_time_a_list_is_repeated_until_the_load_is_reached():
    head = HEAD + ",creation_time"
    listed = pods("b,1,2,1,500,9", "a,1,2,1,250,1", head=head)
    arrivals = in_time(listed, 1000, 1.3)
    assert [pod.milli for pod in arrivals] == [250, 500, 250]
