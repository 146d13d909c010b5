"""`audit verify` and the second place, where no control is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from madang import settings
from madang.cli.address import tell_of_heads
from madang.errors import Rejected
from madang.governance.heads import SEED_BYTES, HeadsFile, Signer
from madang.resources.event import AuditRecord
from madang.settings import Home

OLD, NEW = (Signer(letter * SEED_BYTES) for letter in (b"a", b"b"))


def record(seq: int, previous: str, code: str = "key.created", **values: str) -> AuditRecord:
    return AuditRecord(
        seq=seq, at=1.0, actor="a", by="", code=code, kind="site", project="", name="site", uid="",
        values=values, before=None, after=None,
    ).sealed(previous)  # fmt: skip


@pytest.fixture
def exported(tmp_path: Path) -> tuple[str, str]:
    """An export of three records, and heads of two keys."""
    first = record(1, "")
    second = record(2, first.digest, "audit.key-changed", before=OLD.key, after=NEW.key)
    third = record(3, second.digest)
    lines = [{"store": "s", "where": ""}, *(r.model_dump() for r in (first, second, third))]
    file = tmp_path / "records.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    heads = HeadsFile(tmp_path / "heads.jsonl")
    heads.append(OLD.sign("s", 1, first.digest, 1.0))
    heads.append(NEW.sign("s", 3, third.digest, 1.0))
    return str(file), str(heads.path)


def test_verify_says_from_which_record_on_another_key_signs(run, exported) -> None:
    given = ("audit", "verify", "--records", exported[0], "--heads", exported[1])
    both = ("--public-key", OLD.key, "--public-key", NEW.key)
    done = run(*given, *both)
    assert done.status == 0, done
    assert f"From record 2 on the key {NEW.key} signs." in done.out
    told = json.loads(run(*given, *both, "--json").out)
    assert told["keys"] == [{"from": 1, "key": OLD.key}, {"from": 2, "key": NEW.key}]
    alone = run(*given, "--public-key", OLD.key)
    assert alone.status == 1
    assert "From record 2 on another key signs" in alone.out


def test_records_of_one_place_are_no_proof(run, tmp_path: Path, exported) -> None:
    file = tmp_path / "acme.jsonl"
    file.write_text(json.dumps({"store": "s", "where": "acme"}) + "\n")
    done = run(
        "audit", "verify", "--records", str(file), "--heads", exported[1], "--public-key", OLD.key
    )
    assert done.status == 2
    assert "acme" in done.err
    assert "audit export" in done.err


@pytest.mark.parametrize("there", [False, True])
def test_up_says_that_heads_go_elsewhere_than_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], there: bool
) -> None:
    home, far = Home(tmp_path), tmp_path / "far.jsonl"
    monkeypatch.setenv("MADANG_AUDIT_HEADS", str(far))
    if there:
        home.audit_public.write_text(OLD.key + "\n")
    tell_of_heads(home, runs=False)
    assert (str(far) in capsys.readouterr().err) == there, "a new home has no place of before"
    home.audit_place.write_text(f"{far}\ns\n")
    tell_of_heads(home, runs=True)
    assert capsys.readouterr().err == ""


def test_what_runs_keeps_its_second_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MADANG_AUDIT_HEADS", str(tmp_path / "far.jsonl"))
    with pytest.raises(Rejected, match=r"up\.other-heads"):
        tell_of_heads(Home(tmp_path), runs=True)


def test_a_damaged_file_of_public_keys_gives_those_that_can_be_read(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.audit_public.write_bytes(b"\xff\xfe\nx\n" + OLD.key.encode() + b"\n" + b"0" * 64 + b" x\n")
    assert [signing.key for signing in settings.audit_keys(home)] == [OLD.key]
