"""Texts that jobs are given by name: in no answer, in no file of the home that could be read."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest
from tests import living

from madang.errors import Unavailable
from madang.registry.secrets import PART, PART_S, FileSecrets
from madang.resources.rights import CONTROL
from madang.resources.secret import Secret
from madang.settings import Home

from .conftest import DEADLINE_S, Yard

TEXT = "tr0ub4dor-and-비밀"
TOKEN = {"name": "token", "text": TEXT}
JOB = {"kind": "job", "name": "train", "command": "true", "secrets": {"TOKEN": "token"}}


def found(home: Home, text: str) -> set[Path]:
    """Return the files of a home in which a text stands, in whatever way it is written."""
    forms = {text.encode(), json.dumps(text).encode()[1:-1], text.encode("utf-16-le")}
    return living.holding(home.path, *forms)


def secret(yard: Yard) -> Secret | None:
    kept = yard.desk.world.list(CONTROL, "secret").values()
    return next((each for each in kept if isinstance(each, Secret)), None)


async def test_a_text_is_told_to_nobody_and_stands_nowhere(yard: Yard) -> None:
    first = await yard.post("secret", {**TOKEN, "text": "the first one"})
    again = await yard.post("secret", TOKEN)
    assert (first["status"]["version"], again["status"]["version"]) == (1, 2)
    assert yard.desk.secrets.get(first["uid"]) == TEXT
    await yard.apply(JOB)
    said = [await yard.get(path) for path in (
        "secret", "secret/token", "secret/token/explanation", "event", "audit", "declared",
        "job/train", "job/train/explanation", "snapshot", "status",
    )]  # fmt: skip
    said.append(await yard.get("changes", after=0))
    assert TEXT not in json.dumps(said, ensure_ascii=False)
    assert "the first one" not in json.dumps(said)
    assert found(yard.home, TEXT) == found(yard.home, "the first one") == set()
    backup = await yard.client.post("/api/v1/backup")
    assert backup.status_code == 200
    assert TEXT.encode() not in backup.content
    files = [yard.home.secrets_key, *yard.home.secrets.iterdir()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


@pytest.mark.parametrize("text", ["", "x" * 32_769, "a\0b", 7])
async def test_a_text_that_is_refused_is_not_told_back(yard: Yard, text: object) -> None:
    answer = await yard.client.post("/api/v1/secret", json={"name": "token", "text": text})
    assert answer.status_code == 400
    if text not in ("", 7):
        assert str(text)[:8] not in answer.text


async def test_a_secret_stays_while_a_job_needs_it_and_its_text_goes_with_it(yard: Yard) -> None:
    held = {**JOB, "mounts": {"/data": "volume://none"}}
    await yard.apply(held)
    await yard.post("secret", TOKEN)
    uid = secret(yard).uid  # type: ignore[union-attr]
    assert (await yard.client.delete("/api/v1/secret/token")).status_code == 409
    await yard.apply({**held, "cancel": True})
    await yard.until("job", "train", "cancelled")
    assert (await yard.client.delete("/api/v1/secret/token")).status_code == 200
    async with asyncio.timeout(DEADLINE_S):
        while (yard.home.secrets / uid).exists():
            await yard.desk.world.moved(yard.desk.world.tick, 0.1)


def test_a_text_that_was_changed_or_lost_is_told_as_lost(tmp_path: Path) -> None:
    secrets = FileSecrets(tmp_path / "secrets", tmp_path / "secrets.key")
    secrets.put("secret-1", TEXT)
    secrets.put("secret-2", TEXT)
    assert secrets.get("secret-1") == TEXT
    sealed = [(tmp_path / "secrets" / f"secret-{n}").read_bytes() for n in (1, 2)]
    assert sealed[0] != sealed[1]
    flipped = bytes([sealed[0][-1] ^ 1])
    (tmp_path / "secrets" / "secret-1").write_bytes(sealed[0][:-1] + flipped)
    (tmp_path / "secrets" / "secret-2").unlink()
    for uid in ("secret-1", "secret-2"):
        with pytest.raises(Unavailable) as told:
            secrets.get(uid)
        assert told.value.code == "secret.lost"
        assert TEXT not in str(told.value)
    assert os.listdir(tmp_path / "secrets") == ["secret-1"]  # noqa: PTH208


def test_a_text_that_is_being_written_is_not_taken_for_one_that_nobody_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = FileSecrets(tmp_path / "secrets", tmp_path / "key")
    kept.put("secret-1", TEXT)
    seen: list[str] = []
    fsync = os.fsync

    def meanwhile(file: int) -> None:
        """Do as control does beside it: remove what nobody names."""
        seen.extend(kept.kept())
        for uid in {*kept.kept()} - {"secret-1"}:
            kept.remove(uid)
        fsync(file)

    monkeypatch.setattr(os, "fsync", meanwhile)
    kept.put("secret-2", TEXT)
    assert set(seen) == {"secret-1"}
    assert kept.get("secret-2") == TEXT


def test_what_is_left_of_one_that_was_killed_while_it_wrote_goes(tmp_path: Path) -> None:
    kept = FileSecrets(tmp_path / "secrets", tmp_path / "key")
    kept.put("secret-1", TEXT)
    left = tmp_path / "secrets" / f".0123456789abcdef{PART}"
    left.write_bytes(b"x")
    assert set(kept.kept()) == {"secret-1"}
    os.utime(left, (0, time.time() - PART_S - 1))
    assert set(kept.kept()) == {"secret-1", left.name}


async def test_a_secret_in_a_file_is_told_how_it_is_set(yard: Yard) -> None:
    refused = await yard.apply({"kind": "secret", "name": "token", "text": "abc"}, status=400)
    assert refused["error"]["code"] == "manifest.secret"
    assert "madang secret set token <" in refused["error"]["hint"]
