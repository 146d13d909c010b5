"""What people may write as a service's model, and what they are told otherwise."""

from __future__ import annotations

import pytest

from madang.errors import Rejected
from madang.messages import say
from madang.resources import manifest


def read(**body: object) -> manifest.Manifest:
    return manifest.read({"kind": "service", "name": "a", **body}, "local/main")


@pytest.mark.parametrize("model", ["b", "b@1", "b@999999999", "큰-모델@2", "b" * 63])
def test_a_model_is_a_name_with_or_without_a_version(model: str) -> None:
    assert read(model=model).spec.model_dump()["model"] == model


@pytest.mark.parametrize(
    "model",
    ["", "@", "@1", "b@", "b@0", "b@00", "b@-1", "b@x", "b@1@2", "b@²", "b@1000000000",
     "B", "a b", "-b", "b-", "a/b", "b" * 64],
)  # fmt: skip
def test_any_other_model_is_refused_by_its_key(model: str) -> None:
    with pytest.raises(Rejected) as refused:
        read(model=model)
    assert (refused.value.code, refused.value.values["key"]) == ("manifest.value", "model")


@pytest.mark.parametrize("lang", ["en", "ko"])
def test_a_key_that_comes_later_is_told_without_a_loose_end(lang: str) -> None:
    with pytest.raises(Rejected) as refused:
        read(model="b", rollout={})
    assert refused.value.code == "manifest.not-yet"
    said = say(refused.value.code, refused.value.values, lang).text
    assert said.endswith(".")
