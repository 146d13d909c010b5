"""`madang usage` and the line of `madang status`, in columns, in both languages."""

from __future__ import annotations

from typing import Any

import pytest

from madang.cli import main, usage
from madang.cli.status import _had

KIND = {
    "accelerator": "nvidia/h100", "held_h": 1234.5, "used_h": 600.0, "idle_h": 200.0,
    "unmeasured_h": 434.5, "used": 0.75, "krw": 4_320_750, "idle_krw": 700_000,
}  # fmt: skip
ITEM = {**KIND, "project": "acme/lab", "lost_h": 12.5, "goodput": 0.99, "kinds": [KIND]}


class Stood:
    """A client that answers as it is told."""

    def __init__(self, *items: Any) -> None:
        self.items, self.asked = items, ()

    def __enter__(self) -> Stood:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def usage(self, *asked: str) -> Any:
        self.asked = asked
        return {"month": "2026-11", "items": list(self.items)}


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
    assert stood.asked == ("acme/lab", "2026-11")
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
    assert "보유한 것이 없습니다" in said(monkeypatch, capsys, Stood())


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
