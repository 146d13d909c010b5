"""Why a value is refused is said in both languages, whatever pydantic can complain of."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from pydantic import ValidationError

from madang import messages
from madang.errors import Rejected, Unfit, why
from madang.resources.manifest import read

from .complaints import SENT, complaints

ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 10**40, 10**5000, float("nan"), float("inf"), "", "x" * 5000, "A b",
    "\0", "\ud800", "a/b/c", "hf://x", "1..4", [], [None], [1], ["x"], {}, {"": ""}, {"a": 1},
    {"a": {"b": 1}}, {"count": 0}, {"count": "x"}, {"memory": "x"}, {"memory": 10**30},
    {"accelerator": "!"}, {f"a{n}": "viewer" for n in range(101)}, b"\xff",
)  # fmt: skip
HANGUL = re.compile("[가-힣]")


def every_complaint(model: Any) -> list[Any]:
    found = []
    for field, odd in itertools.product([*model.model_fields, "strange"], ODD):
        try:
            model.model_validate({field: odd})
        except ValidationError as error:
            found += error.errors()
    try:
        model.model_validate([])
    except ValidationError as error:
        found += error.errors()
    return found


@pytest.mark.parametrize("model", SENT, ids=lambda model: model.__name__)
def test_no_odd_value_is_refused_without_words_of_ours(model: Any) -> None:
    found = every_complaint(model)
    assert len(found) > len(ODD)
    for complaint in found:
        told = why(complaint)
        assert messages.knows(str(told["because"])), complaint
        for lang in messages.LANGUAGES:
            values = {"key": "x", "subject": "y", **told}
            said = messages.say("manifest.value", values, lang).text
            assert "{" not in said.replace(str(told.get("pattern", "")), ""), said
            assert bool(HANGUL.search(said)) == (lang == "ko")
            assert told["cause"] not in said or told["cause"] == told["because"]


@pytest.mark.parametrize("kind", sorted(complaints()))
def test_every_type_of_complaint_has_a_sentence(kind: str) -> None:
    assert messages.knows(f"value.{kind}".replace("_", "-"))


def test_a_complaint_that_nobody_knows_is_said_in_its_own_words() -> None:
    told = why({"type": "moon_phase", "msg": "Input should be full", "ctx": {"error": OSError()}})
    said = messages.say("api.value", {"key": "moon", **told}, "ko").text
    assert "Input should be full" in said


def test_a_refused_document_is_refused_in_korean_too() -> None:
    with pytest.raises(Rejected) as refused:
        read({"kind": "service", "name": "Bot", "model": "x"}, "a/b")
    values = refused.value.values
    assert "U+0042" in messages.say("manifest.value", values, "en").text
    assert "영문 소문자" in messages.say("manifest.value", values, "ko").text
    assert isinstance(refused.value.__cause__, ValidationError | Unfit)
