"""`madang twin record`, `replay` and `whatif`: files and answers, with control up and down."""

from __future__ import annotations

import gzip
import json
import stat
from pathlib import Path

import pytest

from madang.ports import Write
from madang.resources.place import Node
from madang.resources.rights import CONTROL
from madang.settings import Home
from madang.stores.sqlite import SqliteStore
from madang.testing.builders import model, node, service, snapshot
from madang.twin.record import Record, sealed


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
