"""`madang usage` and the line of `madang status`, in columns, in both languages."""

from __future__ import annotations

from typing import Any

import pytest

from madang.cli import main, usage
from madang.cli.status import _had
from madang.cli.usage import _row

KIND = {
    "accelerator": "nvidia/h100", "held_h": 1234.5, "used_h": 600.0, "idle_h": 200.0,
    "unmeasured_h": 434.5, "used": 0.75, "krw": 4_320_750, "idle_krw": 700_000,
}  # fmt: skip
ITEM = {**KIND, "project": "acme/lab", "lost_h": 12.5, "goodput": 0.99, "kinds": [KIND]}


class Stood:
    """A client that answers as it is told."""

    def __init__(self, *items: Any) -> None:
        self.items, self.asked = items, ()
        self.tokens: list[Any] = []
        self.prices: list[Any] = []

    def __enter__(self) -> Stood:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def usage(self, *asked: str) -> Any:
        self.asked = asked
        told = {"items": list(self.items), "tokens": self.tokens, "prices": self.prices}
        return {"month": "2026-11", **told}


def said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stood: Stood, *typed: str
) -> str:
    monkeypatch.setattr(usage.Options, "client", lambda _self: stood)
    assert main(["usage", *typed]) == 0
    return capsys.readouterr().out


def test_hours_share_and_won_are_told_by_project_and_kind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stood = Stood(ITEM)
    out = said(monkeypatch, capsys, stood, "--project", "acme/lab", "--month", "2026-11")
    assert stood.asked == ("acme/lab", "2026-11", "model")
    row = next(line for line in out.splitlines() if "nvidia/h100" in line)
    assert row.split("  ")[0] == "acme/lab"
    for cell in ("1,234.50", "600.00", "200.00", "75.0 %", "4,320,750", "700,000"):
        assert cell in row
    assert "434.5" in out
    assert "12.5" in out
    assert "99" in out


def test_more_kinds_have_a_row_for_all_and_what_nobody_measured_has_no_share(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = {**KIND, "accelerator": "cpu", "used": None, "krw": 0, "idle_krw": 0}
    out = said(monkeypatch, capsys, Stood({**ITEM, "kinds": [KIND, unknown]}))
    rows = [line for line in out.splitlines() if line.startswith("acme/lab ")]
    assert [row.split()[1] for row in rows] == ["nvidia/h100", "cpu", "*"]
    assert "–" in rows[1]


def test_nothing_held_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MADANG_LANG", "ko")
    out = said(monkeypatch, capsys, Stood())
    assert "보유한 것이 없습니다" in out
    assert "모델에 보낸 요청이 없습니다" in out


LINE = {
    "project": "acme/lab", "day": "2026-11-27", "model": "tiny@1", "key": "app", "key_uid": "u7",
    "requests": 1200, "estimated": 3, "prompt_tokens": 45_000, "cached_tokens": 900,
    "output_tokens": 7_000, "krw": 12.000001, "wh": 3.25,
}  # fmt: skip


@pytest.mark.parametrize(
    ("by", "cell"), [("day", "2026-11-27"), ("model", "tiny@1"), ("key", "app")]
)
def test_tokens_are_told_by_day_model_or_key_with_their_sum(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], by: str, cell: str
) -> None:
    stood = Stood(ITEM)
    stood.tokens = [LINE, {**LINE, "project": "x/y", "krw": 0.0, "wh": 0.0}]
    out = said(monkeypatch, capsys, stood, "--by", by)
    assert stood.asked == ("", "", by)
    rows = [line for line in out.splitlines() if cell in line]
    assert [row.split()[0] for row in rows] == ["acme/lab", "x/y"]
    for amount in ("1,200", "45,000", "900", "7,000", "12.00", "3.25"):
        assert amount in rows[0]
    whole = next(line for line in out.splitlines() if line.startswith("* "))
    assert whole.split()[2:] == ["2,400", "90,000", "1,800", "14,000", "12.00", "3.25"]
    assert "Of 6 requests" in out


def test_a_sheet_has_the_tokens_alone_to_the_millionth_of_a_won(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stood = Stood(ITEM)
    stood.tokens = [{**LINE, "key": "a,b"}]
    assert said(monkeypatch, capsys, stood, "--csv", "--by", "key") == (
        "project,key,key_uid,requests,estimated,prompt_tokens,cached_tokens,output_tokens,krw,wh\n"
        'acme/lab,"a,b",u7,1200,3,45000,900,7000,12.000001,3.250000\n'
    )


@pytest.mark.parametrize(("is_derived", "why"), [(True, "all of 2026-11-27"), (False, "its file")])
def test_what_tokens_cost_and_draw_is_told_with_where_it_comes_from(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_derived: bool,
    why: str,
) -> None:
    stood = Stood(ITEM)
    rates = {"input": 2250.0, "cached": 562.5, "output": 9000.0}
    kind = {"pool": "main", "accelerator": "nvidia/h100", "hours": 2.0, "tokens": 10,
            "krw_per_hour": 3600.0, "wh": {**rates, "input": 437.5}}  # fmt: skip
    own = {"project": "acme/lab", "name": "bot", "is_derived": is_derived, "krw": rates,
           "since": "2026-11-27" if is_derived else "",
           "kinds": [kind, {**kind, "wh": None}]}  # fmt: skip
    stood.prices = [own, {**own, "name": "free", "krw": None, "kinds": []}]
    out = said(monkeypatch, capsys, stood)
    (price,) = [line for line in out.splitlines() if "KRW per million" in line]
    assert "acme/lab/bot: 2250 KRW" in price
    assert why in price
    (drawn,) = [line for line in out.splitlines() if "Wh per million" in line]
    assert "437.5 Wh" in drawn
    assert "estimated" in drawn


def test_status_tells_it_in_one_line_once_it_is_worth_a_word(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _had([ITEM, ITEM])
    (line,) = capsys.readouterr().out.splitlines()
    told = "2469 h held, 75 % used of what was measured, 400 h idle; 8,641,500 KRW, "
    assert told + "1,400,000 of it idle" in line
    _had([])
    _had([{**ITEM, "held_h": 0.01}])
    assert capsys.readouterr().out == ""


def share(**use: Any) -> str:
    own = {"accelerator": "cpu", "held_h": 1.0, "used_h": 0.0, "idle_h": 0.0, "krw": 0,
           "idle_krw": 0}  # fmt: skip
    return _row("acme/lab", {**own, **use})[5]


def test_no_share_is_told_of_hours_that_round_to_nothing() -> None:
    assert share(used=None) == "–"
    assert share(used=0.9, used_h=0.0018, idle_h=0.0002) == "–"
    assert share(used=0.9, used_h=0.9, idle_h=0.1) == "90.0 %"
