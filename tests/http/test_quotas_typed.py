"""Quotas as people meet them: what each limit says, in both languages, and what would help."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from madang.cli import main
from madang.resources.month import month_of

from .conftest import Yard, serving

Typed = Callable[..., Awaitable[tuple[int, str, str]]]
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, str], str]] = {
    "accelerators": (
        {"accelerators": {"cpu": 1}}, {"accelerator": "cpu", "memory": "12GB"},
        ("It needs 0.75 accelerators of cpu, and quota/{place} leaves 0.25 of 1;",
         "cpu 가속기 0.75개가 필요한데 quota/{place}에 1개 중 0.25개가 남았습니다."),
        "accelerators cpu: 0.75 of 1 used, 0.25 left",
    ),
    "cores": (
        {"cores": 3}, {"accelerator": "cpu", "memory": "1GB", "cores": 2},
        ("It needs 2 cores, and quota/{place} leaves 1 of 3;",
         "코어 2개가 필요한데 quota/{place}에 3개 중 1개가 남았습니다."),
        "cores: 2 of 3 used, 1 left",
    ),
    "memory": (
        {"memory": "10GB"}, {"accelerator": "cpu", "memory": "6GB"},
        ("It needs 6GB of memory, and quota/{place} leaves 4GB of 10GB;",
         "메모리 6GB가 필요한데 quota/{place}에 10GB 중 4GB가 남았습니다."),
        "memory: 6GB of 10GB used, 4GB left",
    ),
}  # fmt: skip
"""What a quota says, what each of two jobs needs, what the second is told, what the quota tells."""


@pytest.fixture
async def typed(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Typed]:
    """Type a command as the operator, in a language."""
    for name in ("MADANG_PROJECT", "MADANG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MADANG_KEY", yard.home.admin_key.read_text().strip())

    async def type_it(*words: str, lang: str = "en") -> tuple[int, str, str]:
        monkeypatch.setenv("MADANG_LANG", lang)
        capsys.readouterr()
        status = await asyncio.to_thread(main, [*words])
        return (status, *capsys.readouterr())

    async with serving(yard) as url:
        monkeypatch.setenv("MADANG_URL", url)
        yield type_it


def a_job(name: str, **needs: Any) -> dict[str, Any]:
    return {"kind": "job", "name": name, "command": "true", "needs": needs}


@pytest.mark.parametrize("place", ["local", "local/main"])
@pytest.mark.parametrize("kind", KINDS)
async def test_what_meets_a_limit_is_told_which_how_much_is_left_and_what_helps(
    yard: Yard, typed: Typed, kind: str, place: str
) -> None:
    spec, needs, told, left = KINDS[kind]
    await yard.apply({"kind": "quota", "name": place, **spec})
    await yard.apply(a_job("a", **needs))
    await yard.until("job", "a", "running")
    await yard.apply(a_job("b", **needs))
    await until_held(yard, "b")
    for lang, sentence in zip(("en", "ko"), told, strict=True):
        status, out, _ = await typed("explain", "job/b", lang=lang)
        assert status == 0
        assert sentence.format(place=place) in out
    status, out, _ = await typed("explain", f"quota/{place}")
    assert status == 0
    assert f"What all of {place} may have together; 1 wait for it." in out
    assert left in out
    assert "job/b" in out
    status, out, _ = await typed("get", "quota")
    assert place in out


async def until_held(yard: Yard, name: str) -> None:
    """Wait until a job has been told that it waits for a quota."""
    async with asyncio.timeout(20):
        while True:
            reason = (await yard.get(f"job/{name}"))["status"]["reason"]
            if reason and reason["code"].startswith("quota."):
                return
            await yard.desk.world.moved(yard.desk.world.tick, 0.1)


async def test_money_that_is_spent_is_told_with_the_day_on_which_it_begins_anew(
    yard: Yard, typed: Typed
) -> None:
    price = {"kind": "pool", "name": "default", "site": "local", "price_krw_per_hour": {"cpu": 100}}
    await yard.apply(price, {"kind": "quota", "name": "local", "krw_per_month": 0})
    await yard.apply(a_job("a", accelerator="cpu"))
    await until_held(yard, "a")
    day = month_of(time.time()).day_after
    _, out, _ = await typed("explain", "job/a")
    assert f"quota/local has 0 KRW left of 0 for this month; it begins anew on {day}." in out
    _, out, _ = await typed("explain", "quota/local")
    assert f"krw: 0 of 0 used, 0 left; it begins anew on {day}" in out
    _, out, _ = await typed("get", "quota")
    assert f"krw 0/0 (< {day})" in out


async def test_a_volume_for_which_there_is_no_storage_is_refused_with_the_numbers(
    yard: Yard, typed: Typed, tmp_path: Path
) -> None:
    await yard.apply({"kind": "quota", "name": "local", "storage": "1GB"})
    path = tmp_path / "much.yaml"
    path.write_text("kind: volume\nname: much\nsize: 2GB\n", encoding="utf-8")
    status, out, err = await typed("apply", "-f", str(path))
    assert (status, out) == (2, "")
    assert "the volumes of local would hold 2GB, and its quota allows 1GB of storage." in err
    path.write_text("kind: volume\nname: much\nsize: 600MB\n", encoding="utf-8")
    assert (await typed("apply", "-f", str(path)))[0] == 0
    assert "storage 600MB/1GB" in (await typed("get", "quota"))[1]
