"""Fleet files: what they say, what is wrong with one and where, and which homes take one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from madang.cli import fleet
from madang.errors import Corrupt, Rejected
from madang.settings import Home

GOOD = """\
accelerators:
  nvidia/h100: {memory: 80GB, start: 2s, token: 8ms}
  cpu: {start: 500ms}
sites:
  - name: seoul
    pools:
      - name: big
        nodes:
          - {name: h100, count: 12, rack: r1, cores: 9, memory: 1TB, accelerators: {nvidia/h100: 8}}
          - name: edge
            cores: 8
            memory: 32GiB
            accelerators: {cpu: 1}
            vanishes: [{after: 1m, lasts: 10s, keeps: true}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text(GOOD)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.path.mkdir()
    return home


def test_a_group_of_nodes_is_so_many_nodes_of_one_shape(file: Path) -> None:
    nodes = fleet.read(str(file))["nodes"]
    assert [node["name"] for node in nodes] == [*(f"h100-{n:02}" for n in range(1, 13)), "edge"]
    big, edge = nodes[0], nodes[-1]
    assert (big["site"], big["pool"], big["cores"], big["memory_bytes"]) == (
        "seoul", "big", 9, 10**12
    )  # fmt: skip
    assert big["labels"] == {"rack": "r1", "simulated": "yes"}
    assert Counter(d["kind"] for d in big["accelerators"]) == {"nvidia/h100": 8}
    assert [d["name"] for d in big["accelerators"]] == [f"gpu{n}" for n in range(8)]
    assert {d["memory_bytes"] for d in big["accelerators"]} == {80 * 10**9}
    assert edge["vanishes"] == [{"after_s": 60, "lasts_s": 10, "keeps": True}]


def test_a_processor_offers_the_memory_of_its_node(file: Path) -> None:
    edge = fleet.read(str(file))["nodes"][-1]
    assert edge["accelerators"] == [{"name": "cpu0", "kind": "cpu", "memory_bytes": 32 << 30}]


def test_a_kind_says_how_it_is_given_and_a_site_what_it_may_hold(file: Path) -> None:
    usual = fleet.read(str(file))
    file.write_text(
        GOOD.replace("name: seoul", "name: seoul\n    grade: S")
        .replace("memory: 80GB", "memory: 80GB, group: 4")
        .replace(
            "cpu: {",
            "maker/cut: {memory: 20GB, guarantee: isolated, watts: {idle: 5, full: 20}}\n  cpu: {",
        )
        .replace("{cpu: 1}", "{cpu: 1, maker/cut: 1}")
    )
    told = fleet.read(str(file))["nodes"]
    for node in told[:-1]:
        assert [d.pop("group") for d in node["accelerators"]] == [
            *["nvidia/h100-0"] * 4, *["nvidia/h100-1"] * 4
        ]  # fmt: skip
    assert {node.pop("grade") for node in told} == {"S"}
    assert [d.get("guarantee") for d in told[-1]["accelerators"]] == [None, "isolated"]
    assert [d.get("watts") for d in told[-1]["accelerators"]] == [None, {"idle": 5, "full": 20}]
    del told[-1]["accelerators"][1]
    assert told == usual["nodes"], "nothing is said of what is as ever: older homes know their file"


def test_how_a_kind_behaves_is_told_in_seconds(file: Path) -> None:
    kinds = fleet.read(str(file))["kinds"]
    assert kinds["nvidia/h100"] == {
        "start_s": 2, "first_token_s": 0, "token_s": 0.008, "fails": 0
    }  # fmt: skip


def test_json_is_taken_too(tmp_path: Path, file: Path) -> None:
    import yaml

    other = tmp_path / "fleet.json"
    other.write_text(json.dumps(yaml.safe_load(GOOD), indent=1))
    assert fleet.read(str(other)) == fleet.read(str(file))


@pytest.mark.parametrize(("was", "wrong", "line", "code", "values"), [
    ("rack: r1", "rak: r1", 9, "fleet.unknown-key",
     {"nearest": "rack", "key": "sites[1].pools[1].nodes[1].rak"}),
    ("start: 500ms", "star: 500ms", 3, "fleet.unknown-key", {"nearest": "start"}),
    ("accelerators:\n  nvidia", "accelerater:\n  nvidia", 1, "fleet.unknown-key",
     {"nearest": "accelerators"}),
    ("after: 1m, ", "", 14, "fleet.missing-key", {}),
    ("            cores: 8\n", "", 10, "fleet.missing-key",
     {"key": "sites[1].pools[1].nodes[2].cores"}),
    ("cores: 8", "cores: 0", 11, "fleet.value", {"because": "value.greater-than"}),
    ("memory: 32GiB", "memory: much", 12, "fleet.value", {"because": "value.size"}),
    ("memory: 80GB, ", "", 2, "fleet.value", {"because": "value.fleet-memory"}),
    ("{nvidia/h100: 8}", "{nvidia/h200: 8}", 9, "fleet.value", {"because": "value.fleet-unknown"}),
    ("  nvidia/h100: {", "  h100: {", 2, "fleet.value", {"because": "value.fleet-kind"}),
    ("memory: 80GB", "memory: 80GB, group: 3", 9, "fleet.value",
     {"because": "value.fleet-group", "count": 8, "group": 3}),
    ("memory: 80GB", "memory: 80GB, group: 2, guarantee: limited", 2, "fleet.value",
     {"because": "value.fleet-group-shared", "key": "accelerators.nvidia/h100.group"}),
    ("start: 500ms", "group: 2", 3, "fleet.value", {"because": "value.fleet-group-shared"}),
    ("memory: 80GB", "memory: 80GB, guarantee: strict", 2, "fleet.value", {}),
    ("name: seoul", "name: seoul\n    grade: X", 6, "fleet.value", {"key": "sites[1].grade"}),
    ("name: edge", "name: h100-03", 10, "fleet.value", {"because": "value.fleet-twice"}),
    ("count: 12", "count: 10001", 9, "fleet.value", {}),
    ("sites:", "sites: []\nsites2:", 5, "fleet.unknown-key", {"nearest": "sites"}),
    ("cpu: {", "cpu: [", 3, "fleet.not-yaml", {}),
])  # fmt: skip
def test_a_mistake_is_told_with_its_line_and_what_would_be_right(
    file: Path, was: str, wrong: str, line: int, code: str, values: dict[str, str | int]
) -> None:
    assert GOOD.count(was) == 1
    file.write_text(GOOD.replace(was, wrong))
    with pytest.raises(Rejected) as refused:
        fleet.read(str(file))
    assert (refused.value.code, refused.value.subject) == (code, str(file))
    assert refused.value.values["line"] == line
    assert values.items() <= refused.value.values.items()


@pytest.mark.parametrize("text", ["", "[]", "a", "sites: []", "sites: 3", "1: 2"])
def test_what_is_no_fleet_at_all_is_refused(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(Rejected) as refused:
        fleet.read(str(file))
    assert refused.value.code.startswith("fleet.")
    assert refused.value.values["line"] == 1


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(Rejected) as refused:
        fleet.read(str(tmp_path / "none.yaml"))
    assert refused.value.code == "fleet.unreadable"


def test_a_new_home_keeps_its_fleet(home: Home, file: Path) -> None:
    assert fleet.kept(home) is None
    fleet.keep(home, str(file))
    assert fleet.kept(home) == {"form": 1, "file": "fleet.yaml", **fleet.read(str(file))}
    file.write_text("# the same in other words\n" + GOOD.replace("1TB", "1000GB"))
    fleet.keep(home, str(file))


def test_a_home_of_another_fleet_or_of_real_nodes_takes_none(home: Home, file: Path) -> None:
    fleet.keep(home, str(file))
    file.write_text(GOOD.replace("count: 12", "count: 13"))
    with pytest.raises(Rejected) as other:
        fleet.keep(home, str(file))
    home.fleet.unlink()
    home.state.touch()
    with pytest.raises(Rejected) as real:
        fleet.keep(home, str(file))
    assert (other.value.code, real.value.code) == ("up.other-fleet", "up.not-a-fleet")


def test_a_damaged_fleet_of_a_home_is_named(home: Home) -> None:
    home.fleet.write_text("{")
    with pytest.raises(Corrupt) as damaged:
        fleet.kept(home)
    assert (damaged.value.code, damaged.value.subject) == ("fleet.damaged", str(home.fleet))
