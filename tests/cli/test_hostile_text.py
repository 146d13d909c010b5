"""Whatever a stranger wrote, a command's output acts on no terminal and turns no line round."""

from __future__ import annotations

import json
from typing import Any

import pytest

from madang import client
from madang.plain import is_plain

from .conftest import Run, World

EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202egnp.exe\u2066\u200b\r\x00\x7f\u2028\ud800\U000e0041"
KEPT = {
    "kind",
    "phase",
    "code",
    "verb",
    "what",
    "role",
    "state",
    "api",
    "gateway",
    "uid",
    "service",
}
"""What steers a command; everything else may be anybody's text."""
NAMES = {"name", "project", "replica", "subject"}

COMMANDS = [
    ("status",), ("get", "service"), ("get", "service", "hello", "-o", "yaml"), ("get", "node"),
    ("get", "replica"), ("get", "build"), ("get", "model"), ("get", "key"),
    ("logs", "service/hello"), ("events",), ("explain", "service/hello"), ("doctor",),
    ("model", "add", "m", "/x"),
    ("model", "add", "m", "/missing"), ("model", "ls"), ("model", "show", "m"),
    ("chat", "hello", "hi"), ("chat", "hello", "break"), ("chat", "nobody", "hi"),
    ("delete", "service", "nobody"),
    ("key", "create", "k"), ("apply", "-f", "FILE", "--dry-run"), ("apply", "-f", "FILE"),
]  # fmt: skip


def poisoned(value: Any, key: str, kept: set[str]) -> Any:
    """Append evil to every text that is not kept."""
    if isinstance(value, dict):
        return {k: poisoned(v, k, kept) for k, v in value.items()}
    if isinstance(value, list):
        return [poisoned(v, key, kept) for v in value]
    return value + EVIL if isinstance(value, str) and key not in kept else value


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_passes_on_what_acts_on_a_terminal(
    run: Run, hello: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Any,
    command: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    hello.put("model", "m", {"source": "/x"}, {"versions": [{
        "number": 1, "format": "gguf", "size_bytes": 10, "licence": "x", "digest": "sha256:0",
    }]})  # fmt: skip
    hello.put("key", "k", {"role": "member", "home": "local/main"}, {})
    file = tmp_path / "services.yaml"
    file.write_text("kind: service\nname: other\nmodel: m\n")
    given = [str(file) if part == "FILE" else part for part in command]
    real = client.parsed
    for kept in (KEPT | NAMES, KEPT):
        monkeypatch.setattr(
            client, "parsed", lambda content, url, k=kept: poisoned(real(content, url), "", k)
        )
        said = run(*given, *(["--json"] if as_json and command[0] != "chat" else []))
        for text in (said.out, said.err):
            assert is_plain(text), ascii(text)
            assert "\r" not in text
        assert "cli.crashed" not in said.err


def test_json_says_the_same_as_before(run: Run, hello: World) -> None:
    hello.put("organization", "o", {"title": "a\u202eb\x1b"}, {}, project="")
    said = run("get", "organization", "o", "-o", "json")
    assert json.loads(said.out)["spec"]["title"] == "a\u202eb\x1b"
    assert is_plain(said.out)


@pytest.mark.parametrize("name", ["\udcff", "a\udc80b", "\x1b[31m", "../../x", "a" * 10_000])
@pytest.mark.parametrize("command", ["get", "explain", "delete"])
def test_an_argument_that_is_no_name_is_refused(
    run: Run, hello: World, command: str, name: str
) -> None:
    said = run(command, "service", name)
    assert said.status in {2, 4}, said
    assert is_plain(said.err)
