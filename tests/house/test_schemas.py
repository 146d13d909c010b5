"""The published JSON Schemas are those of the code: a change of the API shows in the diff.

`python tests/house/test_schemas.py` writes them anew.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from madang.resources.kinds import KINDS, json_schema

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
PUBLISHED = (*KINDS, "event")


def written(kind: str) -> str:
    return json.dumps(json_schema(kind), indent=2, ensure_ascii=False, sort_keys=True) + "\n"


@pytest.mark.parametrize("kind", PUBLISHED)
def test_the_published_schema_is_the_codes(kind: str) -> None:
    published = SCHEMAS / f"{kind}.json"
    assert published.read_text(encoding="utf-8") == written(kind), (
        f"write them: python {Path(__file__).name}"
    )


def test_no_schema_is_left_of_a_kind_that_went() -> None:
    assert {path.stem for path in SCHEMAS.glob("*.json")} == set(PUBLISHED)


if __name__ == "__main__":
    SCHEMAS.mkdir(parents=True, exist_ok=True)
    for name in PUBLISHED:
        (SCHEMAS / f"{name}.json").write_text(written(name), encoding="utf-8")
