"""The smoke gate against a real process that misbehaves in one way at a time."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from madang.engines.fake import Fake
from madang.planning.snapshot import Probed
from madang.ports import Assignment
from madang.supervisor.protocol import READY_FD
from madang.verify import smoke
from madang.verify.gate import judge
from madang.verify.identity import model_names, who_answers
from madang.verify.subject import Failed, Subject


@contextmanager
def engine(folder: Path, **script: Any) -> Iterator[Subject]:
    """Run the fake engine with this script."""
    path = folder / "model.json"
    path.write_text(json.dumps({"fake": 1, **script}))
    fake = Fake()
    plan = fake.launch(
        Assignment(
            uid="replica-1",
            epoch=1,
            model_name="m",
            model_path=path,
            context_tokens=8192,
            slots=4,
            memory_bytes=0,
            cores=1,
            accelerators=(),
            devices=(),
            token="its-key",
        )
    )
    reader, writer = os.pipe()
    env = {**plan.env, READY_FD: str(writer)}
    with subprocess.Popen(plan.argv, env=env, pass_fds=(writer,), stderr=subprocess.DEVNULL) as run:
        os.close(writer)
        with os.fdopen(reader) as ready:
            url = json.loads(ready.readline())["url"]
        try:
            yield Subject(url, "replica-1", "its-key", fake.metrics)
        finally:
            run.kill()


def test_a_good_engine_passes_every_check_in_order(tmp_path: Path) -> None:
    with engine(tmp_path) as subject:
        checks = judge(subject, ["smoke"])
    assert checks is not None
    assert [c.name for c in checks] == [f"smoke.{name}" for name in smoke.CHECKS]
    assert all(c.passed and c.detail for c in checks)


@pytest.mark.parametrize(
    ("fail", "check"),
    [
        ({"identity": "somebody-else"}, "identity"),
        ({"no_stream": True}, "streams"),
        ({"ignores_max_tokens": True}, "max_tokens"),
        ({"ignores_stop": True}, "stop"),
        ({"bad_json": True}, "json_schema"),
        ({"bad_usage": True}, "usage"),
        ({"keeps_working_after_cancel": True}, "cancels"),
    ],
)
def test_each_fault_is_caught_by_the_check_that_is_there_for_it(
    tmp_path: Path, fail: dict[str, Any], check: str
) -> None:
    with engine(tmp_path, fail=fail) as subject:
        checks = judge(subject, ["smoke"])
        with pytest.raises(Failed):
            smoke.CHECKS[check](subject)
    assert checks is not None
    assert not checks[-1].passed
    assert checks[-1].detail
    assert all(c.passed for c in checks[:-1]), "the gate ends at the first failure"


def test_an_engine_that_dies_in_the_middle_is_not_judged(tmp_path: Path) -> None:
    with engine(tmp_path, fail={"crash_after_requests": 3}) as subject:
        assert judge(subject, ["smoke"]) is None


def test_who_answers_is_asked_with_the_engines_own_key(tmp_path: Path) -> None:
    with engine(tmp_path) as subject:
        assert who_answers(subject) == Probed(healthy=True)
        stranger = Subject(subject.url, subject.uid, "another-key", subject.metrics)
        assert who_answers(stranger) == Probed(healthy=False, detail="HTTP 401 for its own key")
        other = Subject(subject.url, "replica-2", subject.token, subject.metrics)
        assert who_answers(other) == Probed(healthy=False, detail="it answers as replica-1")
    assert who_answers(subject) is None, "nobody is there any more"


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"data": 3}', b'{"data": [3]}', b"\xff"])
def test_what_is_no_list_of_models_names_nobody(body: bytes) -> None:
    assert model_names(body) == []
