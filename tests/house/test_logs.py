"""What control and gateway write to their log is harmless and holds no key."""

from __future__ import annotations

import logging
import sys

from madang.logs import Plain

SECRET = "mdg_" + "0f" * 32


def line(message: str, *values: object, failing: bool = False) -> str:
    found = None
    if failing:
        try:
            raise ValueError(f"a\x1b[2J {SECRET}")
        except ValueError:
            found = sys.exc_info()
    record = logging.LogRecord("madang.x", logging.INFO, "f", 1, message, values, found)
    return Plain("%(levelname)s %(name)s %(message)s").format(record)


def test_a_stranger_cannot_write_a_line_of_his_own() -> None:
    said = line("GET %s", "/x\nINFO madang.x all is well\x1b[2J\u202e\r")
    assert "\n" not in said
    assert "\x1b" not in said
    assert said == "INFO madang.x GET /x\\nINFO madang.x all is well\\x1b[2J\\u202e\\x0d"


def test_keys_are_hidden_wherever_they_come_from() -> None:
    said = line("%s %r", f"Bearer {SECRET}", {"Authorization": "Bearer sk-other"}, failing=True)
    assert SECRET not in said
    assert "sk-other" not in said
    assert "ValueError" in said, "what happened is still told"
    assert "\x1b" not in said
