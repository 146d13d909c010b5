"""Ten thousand hostile requests to the control API, as the issue asks: not one is our fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from madang.api.app import build
from madang.settings import Home
from madang.testing.control import Edges, opened
from madang.testing.hostile import besiege
from madang.testing.node import PaperNode

pytestmark = [pytest.mark.story, pytest.mark.timeout(600)]


async def test_ten_thousand_hostile_requests_are_none_of_them_our_fault(tmp_path: Path) -> None:
    home = Home(tmp_path)
    async with opened(home, Edges(PaperNode())) as desk:
        key = f"Bearer {home.admin_key.read_text().strip()}"
        told = await besiege(build(desk), key, 10_000, 2026)
    assert told.failed == []
    assert told.taken == [], "the schema forbids these, and the server did them"
    assert told.wrong > 1_000
    assert told.cases >= 10_000
