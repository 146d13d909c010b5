"""Every code has its sentence in both languages, with the same values; no sentence is idle.

The codes are read from the syntax trees of the source.
"""

from __future__ import annotations

import ast
import re
import string
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import madang
from madang import errors, messages
from madang.cli import COMMANDS
from madang.control.intake import DELETABLE
from madang.planning.action import Verb
from madang.resources.attempt import AttemptPhase, Outcome
from madang.resources.grant import GrantPhase
from madang.resources.job import JobPhase
from madang.resources.kinds import WRITABLE
from madang.resources.place import AcceleratorPhase, Guarantee, NodePhase
from madang.resources.replica import ReplicaPhase
from madang.resources.revision import RevisionPhase, Verdict
from madang.resources.round import Lane, RoundPhase
from madang.resources.service import ServicePhase
from madang.resources.tenancy import Role
from madang.traffic.requests import DECODER_SAYS

from .complaints import complaints

SOURCE = Path(madang.__file__).parent
CODE = re.compile(r"[a-z]+(-[a-z]+)*(\.[a-z][a-z0-9-]*)+")
NOT_CODES = re.compile(r".*\.(log|sock|json|db|lock|txt|yaml|toml|html|new|part|md|gguf)")

ERRORS = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
CARRY = {"Reason", "Finding", "Event", "_told", "_translated"}
"""What takes a code, and the values of its sentence as one mapping or not at all."""
SPOKEN = ("accelerator.", "doctor.", "store.", "service.", "gate.", "build.", "value.")
"""Rooms whose codes pass through a variable before they are said."""
SAY = {"Refused", "NotYet", "_unfit", "say", "words", "word", "tell", "note", "next_step"}
"""Beside the errors: what takes a code first, and the values of its sentence by name."""
TURN_AWAY = {"Refusal", "invalid", "unavailable", "_ambiguous"}
"""What the gateway refuses with; the values are a mapping for `Refusal`, by name for the others."""

EXPANDED = {
    *(f"node.{phase}" for phase in NodePhase),
    *(f"revision.{phase}" for phase in RevisionPhase),
    *(f"service.{phase}" for phase in ServicePhase),
    *(f"replica.{phase}" for phase in ReplicaPhase),
    *(f"{kind}.{done}" for kind in WRITABLE if kind != "model" for done in ("created", "updated")),
    *(f"{kind}.created" for kind in ("node", "accelerator")),
    *(f"{kind}.updated" for kind in ("node", "accelerator", "key")),
    "accelerator.deleted",
    *(f"{kind}.deleted" for kind in sorted(DELETABLE - {"service", "job"})),
    *(f"{kind}.delete-asked" for kind in ("service", "job")),
    *(f"{kind}.missing" for kind in ("project", "organization", "site")),
    *(f"apply.{what}" for what in ("create", "update", "unchanged")),
    *(f"home.{what}" for what in ("backed-up", "drilled", "drill-failed")),
    *(f"up.{step}" for step in ("starting", "verifying", "ready")),
    *(f"help.{command}" for command in COMMANDS),
    *(f"value.{kind}".replace("_", "-") for kind in complaints()),
}
"""Codes that the source puts together, expanded by hand."""

PHASES = {
    *Guarantee, *NodePhase, *RevisionPhase, *ServicePhase, *ReplicaPhase, *Verdict, *Role,
    *AcceleratorPhase, *GrantPhase, *RoundPhase, *Lane, *JobPhase, *AttemptPhase,
    *Outcome,
    "running", "waiting", "exited", "whole", "enclosed", "bare",
}  # fmt: skip
"""What stands in a column `phase`, `verdict`, `role`, `state`, `given` or `sandbox`."""


@dataclass(frozen=True)
class Use:
    """One place where a code is said; `values` is None where they can't be read there."""

    code: str
    where: str
    values: frozenset[str] | None = None
    is_said: bool = True
    """False: only mentioned, perhaps to be said elsewhere, perhaps no code at all."""

    def __str__(self) -> str:
        return f"{self.code}@{self.where}"


@cache
def uses() -> tuple[Use, ...]:
    """Every code that the source says, as often as it does."""
    found = [use for path in _files() for use in _of_file(path)]
    found += [Use(code, "EXPANDED") for code in sorted(EXPANDED)]
    found += [Use(f"phase.{phase}", "EXPANDED") for phase in sorted(PHASES)]
    found += [Use(verb, "planning/action.py", frozenset({"subject"})) for verb in Verb]
    for code, pattern in DECODER_SAYS.items():
        found.append(Use(code, "traffic/requests.py", frozenset({"param", *pattern.groupindex})))
    return tuple(found)


def _files() -> list[Path]:
    return [p for p in sorted(SOURCE.rglob("*.py")) if p.parent.name != "testing"]


def _of_file(path: Path) -> Iterator[Use]:
    nodes = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call | ast.Constant)
    ]
    where = str(path.relative_to(SOURCE))
    said: set[int] = set()
    for node in nodes:
        if isinstance(node, ast.Call) and _name(node) in ERRORS | CARRY | SAY | TURN_AWAY:
            for code in _codes_of(node):
                said.add(id(code))
                yield Use(str(code.value), f"{where}:{node.lineno}", _values_of(node))
    for node in nodes:
        if isinstance(node, ast.Constant) and id(node) not in said and _is_code(node.value):
            is_said = node.value.startswith(SPOKEN)
            yield Use(node.value, f"{where}:{node.lineno}", None, is_said)


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _codes_of(call: ast.Call) -> list[ast.Constant]:
    """Return the codes among a call's arguments."""
    given = [*call.args, *(k.value for k in call.keywords if k.arg == "code")]
    options = [o for c in given for o in ((c.body, c.orelse) if isinstance(c, ast.IfExp) else [c])]
    return [o for o in options if isinstance(o, ast.Constant) and _is_code(o.value)]


def _values_of(call: ast.Call) -> frozenset[str] | None:
    """Return the names of the values that a call gives with its code; None: can't be read."""
    names = {k.arg for k in call.keywords}
    if _name(call) == "Refusal":
        return frozenset({"param", *(key for each in call.args for key in _keys_of(each))})
    if _name(call) in CARRY:
        given = next((k.value for k in call.keywords if k.arg == "values"), ast.Dict([], []))
        if _name(call) != "Reason" or not isinstance(given, ast.Dict):
            return None
        return frozenset({"subject", *_keys_of(given)})
    if None in names or (len(call.args) > 1 and _name(call) == "words"):
        return None
    always = "param" if _name(call) in TURN_AWAY else "subject"
    return frozenset({always, *(name for name in names if name)})


def _keys_of(given: ast.expr) -> list[str]:
    """Return the names in a written-out mapping."""
    keys = given.keys if isinstance(given, ast.Dict) else ()
    return [str(getattr(key, "value", "")) for key in keys]


def _is_code(value: object) -> bool:
    return (
        isinstance(value, str)
        and bool(CODE.fullmatch(value))
        and not NOT_CODES.fullmatch(value)
        and not value.startswith(("madang.", "importlib."))
    )


HANGUL = re.compile("[가-힣]")
POLITE = re.compile(r"(니다|세요)(\([^)]*\))?\.$")


@cache
def tables(lang: str) -> dict[str, dict[str, str]]:
    return tomllib.loads((SOURCE / "messages" / f"{lang}.toml").read_text())


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_every_code_that_the_source_says_has_a_sentence() -> None:
    silent = {use.code: use.where for use in uses() if use.is_said}
    assert {c: w for c, w in silent.items() if c not in tables("en")} == {}


def test_no_sentence_is_idle() -> None:
    assert set(tables("en")) - {use.code for use in uses()} == set()


def test_both_languages_know_the_same_codes_in_the_same_order() -> None:
    assert list(tables("en")) == list(tables("ko"))


def test_a_sentence_says_the_same_in_both_languages() -> None:
    for code, english in tables("en").items():
        korean = tables("ko")[code]
        assert set(english) == set(korean), code
        assert set(english) <= {"text", "hint"}, code
        for part in english:
            assert placeholders(english[part]) == placeholders(korean[part]), (code, part)


def test_a_korean_sentence_is_korean() -> None:
    for code, korean in tables("ko").items():
        for part, text in korean.items():
            own = re.sub(r"\{\w+\}|madang [\w/-]+", "", text)
            assert HANGUL.search(own) or code == "up.api", (code, part)
            assert not HANGUL.search(tables("en")[code][part]), (code, part)


def test_korean_sentences_that_end_in_a_full_stop_are_polite() -> None:
    rude = [
        code
        for code, table in tables("ko").items()
        if table["text"].endswith(".") and not POLITE.search(table["text"])
    ]
    assert rude == []


def test_a_sentence_asks_only_for_values_that_it_is_given() -> None:
    asked = {
        code: {name for text in table.values() for name in placeholders(text)}
        for code, table in tables("en").items()
    }
    given = [use for use in uses() if use.values is not None]
    wanting = {str(use): asked.get(use.code, set()) - (use.values or set()) for use in given}
    assert given
    assert {where: names for where, names in wanting.items() if names} == {}


def test_the_gateway_refuses_in_no_words_of_its_own() -> None:
    calls = [
        (path.name, node)
        for room in ("traffic", "gateway")
        for path in sorted((SOURCE / room).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and _name(node) in TURN_AWAY
    ]
    spoken = [
        f"{name}:{call.lineno}"
        for name, call in calls
        for given in (*call.args, *(k.value for k in call.keywords))
        for part in ast.walk(given)
        if isinstance(part, ast.JoinedStr)
        or (isinstance(part, ast.Constant) and " " in str(part.value))
    ]
    assert spoken == []
    assert {name for name, _ in calls} >= {"admission.py", "doors.py", "requests.py"}


@pytest.mark.parametrize(
    ("environ", "lang"),
    [
        ({}, "en"),
        ({"LANG": "ko_KR.UTF-8"}, "ko"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "ko_KR.UTF-8", "LC_ALL": "en_US.UTF-8"}, "en"),
        ({"LC_MESSAGES": "ko_KR.UTF-8", "LANG": "en_US.UTF-8"}, "ko"),
        ({"MADANG_LANG": "KO", "LC_ALL": "en_US.UTF-8"}, "ko"),
        ({"MADANG_LANG": "", "LANG": "ko"}, "ko"),
    ],
)
def test_the_language_is_chosen_by_the_nearest_setting(environ: dict[str, str], lang: str) -> None:
    assert messages.language(environ) == lang


def test_a_missing_value_stays_visible_and_an_unknown_code_is_said_as_it_is() -> None:
    assert "{subject}" in messages.say("control.unreachable", {}, "en").text
    assert messages.say("nobody.knows", {}, "ko") == messages.Sentence("nobody.knows", "")


def test_numbers_are_written_as_people_do_and_breaks_do_not_get_in() -> None:
    said = messages.say("up.first-token", {"seconds": 0.061234}, "en")
    assert said.text.endswith(" 0.0612 s")
    said = messages.say("store.damaged", {"cause": "one\ntwo"}, "en")
    assert said.text == "The state file is damaged: one two"
