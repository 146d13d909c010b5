"""What `madang usage` prints: no share of hours that are too few to be told."""

from __future__ import annotations

from typing import Any

from madang.cli.usage import _row


def told(**use: Any) -> str:
    own = {"accelerator": "cpu", "held_h": 1.0, "used_h": 0.0, "idle_h": 0.0, "krw": 0,
           "idle_krw": 0}  # fmt: skip
    return _row("acme/lab", {**own, **use})[5]


def test_no_share_is_told_of_hours_that_round_to_nothing() -> None:
    assert told(used=None) == "–"
    assert told(used=0.9, used_h=0.0018, idle_h=0.0002) == "–"
    assert told(used=0.9, used_h=0.9, idle_h=0.1) == "90.0 %"
