"""`madang twin record`, `replay` and `whatif`: files and answers, with control up and down."""

from __future__ import annotations

import gzip
import json
import stat
from pathlib import Path

import pytest

from madang.ports import Write
from madang.resources.place import Node, Pool, PoolSpec, PoolStatus, Site, SiteSpec
from madang.resources.rights import CONTROL
from madang.resources.tenancy import Empty
from madang.settings import Home
from madang.stores.sqlite import SqliteStore
from madang.testing.builders import job, model, node, service, snapshot
from madang.testing.paper import Paper
from madang.twin.record import Record, packed, sealed


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A record of a service that waits for its first turn."""
    path = tmp_path / "kept.json"
    path.write_text(Record.of(snapshot(node("a", cards=2), model(), service())).text())
    return path


def test_a_record_is_replayed_and_is_the_same(run, kept: Path) -> None:
    done = run("twin", "replay", str(kept))
    assert (done.status, "The same plan, byte for byte" in done.out) == (0, True)
    said = json.loads(run("twin", "replay", str(kept), "--json").out)
    assert (said["same"], said["difference"]) == (True, None)
    assert said["actions"] > 3


def test_another_plan_is_told_by_its_first_difference(run, kept: Path) -> None:
    body = json.loads(kept.read_text())
    del body["sha256"]
    body["plan"]["actions"][0]["verb"] = "x" * 500
    kept.write_text(json.dumps(sealed(body)))
    done = run("twin", "replay", str(kept))
    assert (done.status, "actions[0].verb" in done.out, "x" * 300 in done.out) == (1, True, False)
    said = json.loads(run("twin", "replay", str(kept), "--json").out)
    assert said["difference"]["where"] == "actions[0].verb"
    assert said["difference"]["recorded"] == "x" * 500


@pytest.mark.parametrize(("content", "code"), [
    (None, "twin.unreadable"), (b"sn,gpu", "twin.no-record"), (b'{"form', "twin.torn-record"),
])  # fmt: skip
def test_what_is_no_record_is_refused(run, tmp_path: Path, content, code: str) -> None:
    path = tmp_path / "odd"
    if content is not None:
        path.write_bytes(content)
    done = run("twin", "replay", str(path), "--json")
    assert (done.status, json.loads(done.err)["error"]["code"]) == (2, code)


@pytest.fixture
def town(tmp_path: Path) -> Path:
    """A record of a service that waits for one more accelerator than there is."""
    sites = [Site(name="seoul", uid="s", spec=SiteSpec(), status=Empty()),
             Pool(name="default", uid="p", spec=PoolSpec(site="seoul"), status=PoolStatus()),
             ]  # fmt: skip
    wanted = service(scale=3, needs={"accelerator": "nvidia", "memory": "40GB"})
    cards = [*node("a", cards=1), *node("b", cards=1)]
    path = tmp_path / "town.json.gz"
    path.write_bytes(packed(Record.of(snapshot(cards, sites, model(), wanted)).text().encode()))
    return path


def test_what_would_happen_is_told_to_people_and_to_programs(run, town: Path, monkeypatch) -> None:
    asked = ("twin", "whatif", "--snapshot", str(town), "--add", "1xh100@seoul")
    done = run(*asked)
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "Comes: 1 nvidia/h100 in default, on new-1"
    assert "1 of bot (acme/lab) would start, on nvidia/h100: new-1" in lines
    assert "Nothing would wait." in lines
    assert ["acme/lab", "bot", "3", "2", "3"] in [line.split() for line in lines]
    kinds = [line.split() for line in lines if line.startswith("nvidia/h100 ")]
    assert kinds == [["nvidia/h100", "80GB", "2/2", "3/3", "1,400", "2,100"]]
    said = json.loads(run(*asked, "--json").out)
    assert said["starts"][0]["nodes"] == ["new-1"]
    gone = run("twin", "whatif", "--snapshot", str(town), "--remove", "a", "--remove", "b").out
    assert "3 of bot (acme/lab) would wait; without the change, 1" in gone
    assert "smallest fix: " in gone
    monkeypatch.setenv("MADANG_LANG", "ko")
    assert "추가: default에 nvidia/h100 1개" in run(*asked).out


def test_a_change_that_can_not_be_is_refused_with_what_can(run, town: Path) -> None:
    wrong = ("twin", "whatif", "--snapshot", str(town), "--remove-site", "seol")
    done = run(*wrong)
    assert (done.status, done.out) == (4, "")
    assert done.err.splitlines() == [
        "There is no site seol; the nearest name is seoul.", "Sites are seoul."
    ]  # fmt: skip
    assert run("twin", "whatif", "--snapshot", str(town)).status == 2


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A record of eight accelerators for which two projects compete."""
    rows = [
        job(f"{place[5:]}-{n}", project=place, created_at=float(n), needs={"accelerator": "nvidia"})
        for place in ("acme/lab", "acme/web") for n in range(8)
    ]  # fmt: skip
    paper = Paper(snapshot(node("a", cards=8), rows))
    paper.settle()
    path = tmp_path / "shared.json"
    path.write_text(Record.of(paper.snapshot).text())
    return path


def test_weights_and_grants_that_might_be_are_tried(run, shared: Path, tmp_path: Path) -> None:
    asked = ("twin", "whatif", "--snapshot", str(shared))
    done = run(*asked, "--weight", "web=3")
    assert (done.status, done.err) == (0, "")
    assert "Would run as well, 2: acme/web web-4, acme/web web-5" in done.out
    assert "Would make room and wait, 2: acme/lab lab-2, acme/lab lab-3" in done.out
    rows = [line for line in done.out.splitlines() if line.startswith("nvidia/h100  acme/web")]
    (row,) = rows
    assert "1 -> 3" in row
    assert "4 -> 6" in row
    grant = tmp_path / "grant.yaml"
    grant.write_text(
        "{kind: grant, name: burst, project: acme/web, accelerator: nvidia, count: 7,"
        " from: '1970-01-01', until: '2099-01-01'}"
    )
    said = json.loads(run(*asked, "--grant", str(grant), "--json").out)
    assert {r["project"]: r["held_after"] for r in said["queues"]} == {
        "acme/lab": 1.0, "acme/web": 7.0,
    }  # fmt: skip


def test_a_weight_and_a_grant_that_can_not_be_are_refused(run, shared: Path, tmp_path) -> None:
    asked = ("twin", "whatif", "--snapshot", str(shared))
    assert "PROJECT=WEIGHT" in run(*asked, "--weight", "web").err
    assert run(*asked, "--weight", "nobody=2").status == 4
    other = tmp_path / "other.yaml"
    other.write_text("{kind: job, name: x, project: acme/web, command: 'true'}")
    assert "job/x is no grant." in run(*asked, "--grant", str(other)).err
    assert run(*asked, "--grant", str(tmp_path / "none.yaml")).status == 2


def test_what_if_is_asked_of_a_home_at_rest(run, at_rest: Home) -> None:
    done = run("twin", "whatif", "--remove", "a")
    assert (done.status, "every node is taken to be in sight" in done.err) == (0, True)
    assert "1 of bot (acme/lab) would wait; without the change, 0" in done.out
    assert at_rest.state.exists()


@pytest.fixture
async def at_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with a node, a model and a service, in which nothing runs."""
    home = Home(tmp_path / "home")
    monkeypatch.setenv("MADANG_HOME", str(home.path))
    store = SqliteStore(home)
    await store.open()
    made = [*node("a"), model(), service()]
    await store.commit(CONTROL, [Write(each) for each in made])
    await store.close()
    home.secret.write_text("s" * 64)
    return home


def test_a_home_at_rest_is_recorded_as_it_is_stored(run, at_rest: Home, tmp_path: Path) -> None:
    before = at_rest.state.read_bytes()
    file = tmp_path / "r.json.gz"
    done = run("twin", "record", str(file))
    assert (done.status, "Control does not run" in done.err) == (0, True)
    assert "1 nodes, 1 services" in done.out
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    body = json.loads(gzip.decompress(file.read_bytes()))
    assert body["snapshot"]["seen"]["nodes"] == []
    assert [n["name"] for n in body["snapshot"]["kept"][Node.kind]] == ["a"]
    assert run("twin", "replay", str(file)).status == 0
    assert at_rest.state.read_bytes() == before
    again = run("twin", "record", str(file), "--json")
    assert (again.status, json.loads(again.err)["error"]["code"]) == (2, "twin.record-exists")
    lost = run("twin", "record", str(tmp_path / "no" / "where"), "--json")
    told = json.loads(lost.err.splitlines()[-1])
    assert (lost.status, told["error"]["code"]) == (75, "twin.unwritten")


def test_a_home_that_was_never_started_has_nothing_to_record(run, tmp_path: Path) -> None:
    done = run("twin", "record", str(tmp_path / "r"), "--home", str(tmp_path), "--json")
    assert (done.status, json.loads(done.err)["error"]["code"]) == (75, "control.not-started")
    assert not (tmp_path / "r").exists()
