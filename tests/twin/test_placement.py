"""`madang twin placement`: the published protocol, on the public trace and on small ones."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import pytest

from madang.cli import main
from madang.errors import Rejected
from madang.twin.placement import Question, Replay, report
from madang.twin.policies import NAMES, Ours
from madang.twin.trace import read_fleet, read_pods

TRACES = Path(__file__).parents[2] / "bench" / "traces" / "openb"


def opened(name: str):
    return gzip.open(TRACES / f"openb_{name}.csv.gz", "rt", encoding="utf-8")


@pytest.fixture(scope="module")
def fleet():
    with opened("node_list_gpu_node") as lines:
        return read_fleet(lines, "nodes")


def replay(fleet, name: str, **question):
    with opened(f"pod_list_{name}") as lines:
        pods = read_pods(lines, name, fleet.kinds)
    asked = Question(**{"policies": ("fgd", "madang"), "seeds": (7,), "load": 1.01, **question})
    return report(Replay(fleet, pods, asked, time.process_time, lambda *_: None).run())


@pytest.mark.timeout(300)
def test_on_the_public_trace_fgd_is_where_it_was_published_and_ours_is_above(fleet):
    answer = replay(fleet, "default", policies=("madang", "fgd", "best-fit", "random"))
    at = {name: found["allocated_at_100"]["mean"] for name, found in answer.items()}
    assert at["fgd"] == pytest.approx(95.23, abs=0.5)
    assert at["best-fit"] == pytest.approx(92.86, abs=0.5)
    assert at["random"] == pytest.approx(86.3, abs=1.5)
    assert at["madang"] > at["fgd"] - 0.1
    assert answer["madang"]["to_fgd_at_100"]["mean"] == pytest.approx(
        at["madang"] - at["fgd"], abs=1e-3
    )


@pytest.mark.timeout(300)
def test_five_moves_per_hundred_and_no_forecast_beat_fgd_that_knows_all(fleet):
    known = replay(fleet, "gpuspec25", policies=("fgd",))["fgd"]["allocated_at_100"]["mean"]
    ours = replay(fleet, "gpuspec25", policies=("madang",), mix="online", ours=Ours(5))["madang"]
    assert ours["allocated_at_100"]["mean"] >= known + 0.4
    assert 0 < ours["moves"]["mean"] <= 0.05 * ours["arrivals"]["mean"]


@pytest.mark.timeout(300)
def test_a_watt_that_counts_is_saved_and_costs_no_room(fleet):
    without = replay(fleet, "multigpu20", ours=Ours())
    saving = replay(fleet, "multigpu20", policies=("madang",), ours=Ours(watts=1.0))["madang"]
    for load in ("60", "80"):
        drawn = saving["power_kw"][load]["mean"]
        assert drawn <= 0.97 * without["fgd"]["power_kw"][load]["mean"]
        assert drawn < without["madang"]["power_kw"][load]["mean"]
    assert saving["allocated_at_100"]["mean"] > without["fgd"]["allocated_at_100"]["mean"]


SMALL_NODES = "sn,cpu_milli,memory_mib,gpu,model\n" + "".join(
    f"n{i},32000,65536,4,{'T4' if i % 2 else 'P100'}\n" for i in range(6)
)
SMALL_PODS = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,creation_time\n" + "".join(
    f"p{i},{1000 + i % 3 * 1000},1024,{1 + i % 5 // 4},{1000 if i % 5 == 4 else 100 * (1 + i % 5)},"
    f"{'T4' if i % 7 == 0 else ''},{i}\n"
    for i in range(60)
)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    nodes, pods = tmp_path / "nodes.csv", tmp_path / "pods.csv.gz"
    nodes.write_text(SMALL_NODES)
    pods.write_bytes(gzip.compress(SMALL_PODS.encode()))
    return ["twin", "placement", "--nodes", str(nodes), "--pods", str(pods)]


@pytest.mark.parametrize("mix", ["known", "online"])
@pytest.mark.parametrize("order", ["shuffled", "time"])
def test_every_policy_answers_in_json_and_twice_the_same(files, capfd, mix, order):
    asked = [*files, "--policy", ",".join(NAMES), "--seeds", "3..4", "--mix", mix, "--order", order,
             "--moves", "5", "--json"]  # fmt: skip
    answers = []
    for _ in range(2):
        assert main(asked) == 0
        answers.append(json.loads(capfd.readouterr().out))
    for found in answers:
        for policy in found.values():
            assert policy.pop("decisions_per_cpu_s") > 0
    assert answers[0] == answers[1]
    assert list(answers[0]) == list(NAMES)
    for found in answers[0].values():
        assert 0 < found["allocated_at_100"]["mean"] <= 100
        assert found["allocated_at_100"]["sd"] >= 0
        assert found["power_kw"]["80"]["mean"] > 0


def test_people_get_a_table_progress_on_the_side_and_a_drawing(files, capsys, tmp_path):
    assert main([*files, "--seeds", "1", "--plot", str(tmp_path / "out.svg")]) == 0
    said = capsys.readouterr()
    assert "madang" in said.out
    assert "best-fit" in said.out
    assert "seed 1" in said.err
    drawing = (tmp_path / "out.svg").read_text()
    assert drawing.startswith("<svg")
    assert drawing.count("<polyline") == 3


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (["--policy", "best"], "twin.no-such-policy"),
        (["--seeds", "5..1"], "twin.bad-seeds"),
        (["--seeds", "1..99999"], "twin.bad-seeds"),
        (["--load", "0"], "twin.out-of-bounds"),
        (["--moves", "101"], "twin.out-of-bounds"),
        (["--watts", "-1"], "twin.out-of-bounds"),
        (["--plot", "/absent/x.svg", "--seeds", "1"], "twin.unwritable"),
    ],
)
def test_what_cannot_be_replayed_is_refused_with_the_reason(files, capsys, more, code):
    assert main([*files, *more, "--json"]) == 2
    said = capsys.readouterr().err
    assert json.loads(said[said.index("{") :])["error"]["code"] == code


def test_a_file_that_is_not_there_or_no_text_is_refused(files, capsys, tmp_path):
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\x1f\x8b\xff\xff" + bytes(range(256)))
    for file in (tmp_path / "absent.csv", binary, tmp_path):
        assert main([*files[:-1], str(file)]) == 2
        assert str(file) in capsys.readouterr().err


def test_a_list_without_times_is_refused_in_order_of_time(fleet):
    with pytest.raises(Rejected) as refused:
        replay(fleet, "multigpu20", order="time")
    assert refused.value.code == "twin.no-times"
