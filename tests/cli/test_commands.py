"""Every command against the stand-in: columns and JSON, hints and exit codes, both languages."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from madang.cli import COMMANDS, kinds, logs, output
from madang.client import Client
from madang.errors import Rejected
from madang.resources.kinds import KINDS

SERVICE = "{kind: service, name: second, model: m}"


def test_the_kinds_of_the_commands_are_the_kinds_there_are() -> None:
    assert tuple(KINDS) == kinds.KINDS


@pytest.mark.usefixtures("hello")
def test_status_shows_nodes_services_processes_and_usage(run) -> None:
    done = run("status")
    for part in ("vm", "hello", "1/1", "control", "100MB", "3 requests"):
        assert part in done.out
    assert json.loads(run("status", "--json").out)["usage"]["requests"] == 3


@pytest.mark.usefixtures("hello")
@pytest.mark.parametrize("kind", ["service", "replica", "build", "node", "key", "pool"])
def test_get_shows_columns_and_json_gives_an_array(run, kind: str) -> None:
    found = json.loads(run("get", kind, "--json").out)
    lines = run("get", f"{kind}s").out.splitlines()
    assert len(lines) == (1 + len(found) if found else 1)
    assert all(item["name"] in line for item, line in zip(found, lines[1:], strict=False))


@pytest.mark.parametrize(
    ("lang", "heading", "sentence"),
    [("en", "DRAWS MAY DRAW NO FIGURE OF", "Pool gpu draws 12.35kW; it may draw 40kW."),
     ("ko", "전력 전력 한도 수치 없음", "gpu 자원풀이 쓰는 전력: 12.35kW (한도 40kW)")],
)  # fmt: skip
def test_a_pool_shows_what_it_draws_beside_what_it_may(
    run, world, monkeypatch, lang, heading, sentence
) -> None:
    monkeypatch.setenv("MADANG_LANG", lang)
    npus = ["furiosa/rngd", "rebellions/atom-max"]
    for name, most, draws, unknown in (("gpu", 40.0, 12.345, ()), ("npu", None, None, npus)):
        world.put("pool", name, {"site": "seoul", "power_kw_max": most},
                  {"power_kw": draws, "no_watts": unknown}, project="")  # fmt: skip
    head, gpu, npu = (line.split() for line in run("get", "pool").out.splitlines())
    assert " ".join(head[2:]) == heading
    assert gpu == ["gpu", "seoul", "12.35kW", "40kW"]
    assert npu == ["npu", "seoul", "furiosa/rngd,", "rebellions/atom-max"]
    told = run("status").out
    assert sentence in told
    assert "npu" not in told
    assert json.loads(run("get", "pool/gpu", "--json").out)["status"]["power_kw"] == 12.345


@pytest.mark.usefixtures("hello")
def test_one_object_is_an_object_in_json_and_in_yaml(run) -> None:
    whole = json.loads(run("get", "service", "hello", "-o", "json").out)
    assert whole["status"]["phase"] == "ready"
    assert yaml.safe_load(run("get", "service/hello", "-o", "yaml").out) == whole


@pytest.mark.usefixtures("hello")
def test_columns_stand_under_their_headings_also_with_wide_letters(run, monkeypatch) -> None:
    monkeypatch.setenv("MADANG_LANG", "ko")
    heading, row = run("get", "service").out.splitlines()
    assert heading.split()[:2] == ["이름", "단계"]
    before = [heading[: heading.index("준비")], row[: row.index("1/1")]]
    assert output.width_of(before[0]) == output.width_of(before[1])


@pytest.mark.usefixtures("hello")
def test_watching_prints_one_line_of_json_per_change(run, monkeypatch) -> None:
    seen: list[object] = []

    def stop_after_one(value: object, one_line: bool = False) -> None:
        seen.append((value, one_line))
        raise KeyboardInterrupt

    monkeypatch.setattr("madang.cli.get.show_json", stop_after_one)
    assert run("get", "service", "--watch", "-o", "json").status == 130
    assert seen[0][0]["resource"]["name"] == "hello"
    assert seen[0][1] is True


@pytest.mark.usefixtures("hello")
@pytest.mark.parametrize("arguments", [("service/hello",), ("service", "hello")])
def test_explain_gives_the_reason_the_fix_and_the_last_lines(run, arguments) -> None:
    done = run("explain", *arguments)
    for part in (
        "service/hello  ready", "needs 1 × 1TB", "memory: 1GB", "| the end", "again at",
        "or: have an operator raise quota/local/main: cores: 3 instead of 2",
    ):  # fmt: skip
        assert part in done.out
    assert json.loads(run("explain", *arguments, "--json").out)["last_lines"] == ["the end"]


@pytest.mark.usefixtures("hello")
def test_logs_are_the_last_lines(run) -> None:
    assert run("logs", "service/hello", "-n", "2").out == "line 198\nline 199\n"
    assert run("logs", "process/control", "-n", "1").out == "line 199\n"
    said = json.loads(run("logs", "replica/hello-1-1", "-n", "1", "--json").out)
    assert said == {"items": [{"replica": "hello-1-1", "lines": ["line 199"]}]}


@pytest.mark.parametrize(
    ("before", "now", "fresh"),
    [
        ([], ["a"], ["a"]),
        (["a"], ["a"], []),
        (["a", "b"], ["b", "c", "d"], ["c", "d"]),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        (["a", "a"], ["a", "a", "a"], ["a"]),
    ],
)
def test_a_follower_prints_only_what_is_new(before, now, fresh) -> None:
    assert logs.unseen(before, now) == fresh


@pytest.mark.usefixtures("hello")
def test_following_a_log_goes_on_from_its_last_line(run, monkeypatch) -> None:
    looks = iter([None])

    def look_again(_seconds: float) -> None:
        if next(looks, "done"):
            raise KeyboardInterrupt

    monkeypatch.setattr(logs.time, "sleep", look_again)
    done = run("logs", "service/hello", "-n", "2", "--follow", "--json")
    assert (done.status, len(done.out.splitlines())) == (130, 2)
    assert json.loads(done.out.splitlines()[1]) == {"replica": "hello", "line": "line 199"}


@pytest.mark.usefixtures("world")
def test_following_events_asks_for_those_after_the_last(run, world, monkeypatch) -> None:
    shown = logs._show

    def show_and_leave(found: list[dict[str, object]], as_json: bool) -> None:
        shown(found, as_json)
        if not found:
            raise KeyboardInterrupt

    monkeypatch.setattr(logs, "_show", show_and_leave)
    done = run("events", "-f", "--json")
    assert (done.status, json.loads(done.out)["seq"]) == (130, 1)
    assert "after=1" in world.asked[-1]


@pytest.mark.usefixtures("world")
def test_events_say_what_happened_and_why(run) -> None:
    assert "control" in run("events").out
    assert "replica/hello-1-1 is started: it fits on node vm (c0)" in run("events").out
    assert json.loads(run("events", "--json").out)[0]["code"] == "replica.started"


@pytest.mark.usefixtures("hello")
def test_delete_takes_down_and_names_what_was_perhaps_meant(run) -> None:
    done = run("delete", "service/helo")
    assert (done.status, "perhaps service/hello is meant" in done.err) == (4, True)
    assert run("delete", "service", "hello").out == "service/hello is being taken down.\n"
    done = run("delete", "service/hello")
    assert (done.status, "There is no service/hello" in done.err) == (4, True)


@pytest.mark.usefixtures("world")
def test_apply_shows_what_changes_and_what_follows_and_then_does_it(run, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(f"{SERVICE}\n---\n---\n{SERVICE.replace('second', 'third')}\n")
    done = run("apply", "-f", str(file), "--dry-run")
    assert "+ service/second (local/main) is new" in done.out
    assert "-> replica/third-1-1 is started: it fits on node vm (vm-cpu0)" in done.out
    assert json.loads(run("get", "service", "--json").out) == []
    assert run("apply", "-f", str(file)).out.endswith("Applied: 2 changed.\n")
    done = run("apply", "-f", str(file), "--wait", "--json")
    assert [c["what"] for c in json.loads(done.out)["changes"]] == ["unchanged", "unchanged"]
    phases = [s["status"]["phase"] for s in json.loads(run("get", "service", "--json").out)]
    assert phases == ["ready", "ready"]


@pytest.mark.usefixtures("world")
def test_apply_reads_the_standard_input(run, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(SERVICE.encode())))
    assert run("apply", "-f", "-").status == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "line 1: this is not YAML"),
        ("a: 1\nb: :\n c: {", "line 2"),
        ("", "holds no document"),
        ("!!python/object:os.system {}", "this is not YAML"),
        ("# only a remark\n---\n", "holds no document"),
    ],
)
def test_a_file_that_is_no_document_is_named_with_its_line(run, tmp_path, text, said) -> None:
    (tmp_path / "s.yaml").write_text(text)
    done = run("apply", "-f", str(tmp_path / "s.yaml"))
    assert (done.status, said in done.err) == (2, True), done.err
    assert run("apply", "-f", str(tmp_path / "absent")).status == 2


@pytest.mark.usefixtures("world")
def test_what_the_server_refuses_is_said_with_its_hint(run, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("# one document\nkind: service")
    done = run("apply", "-f", str(file))
    assert done.status == 2
    assert done.err == (
        f"{file}:2: service/None needs the key name.\n"
        "Add it, then: madang apply -f FILE --dry-run\n"
    )


@pytest.mark.usefixtures("hello")
@pytest.mark.parametrize("arguments", [("hello", "Hi"), ("How are you?",)])
def test_chat_answers_one_question(run, arguments) -> None:
    assert run("chat", *arguments).out == "Good day.\n"
    said = json.loads(run("chat", *arguments, "--json").out)
    assert (said["service"], said["answer"]) == ("hello", "Good day.")
    assert said["first_token_s"] > 0


@pytest.mark.usefixtures("hello")
def test_chat_says_how_long_an_answer_may_be(run) -> None:
    assert run("chat", "hello", "Hi", "--max-tokens", "2").out == "Good day\n"
    assert run("chat", "hello", "Hi", "--max-tokens", "0").status == 2


@pytest.mark.usefixtures("hello")
def test_chat_takes_its_question_from_a_pipe(run, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi\n"))
    assert run("chat").out == "Good day.\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert run("chat").status == 2


@pytest.mark.usefixtures("hello")
def test_chat_goes_on_until_the_end_of_input_and_remembers(run, monkeypatch) -> None:
    lines = iter(["Hi", "", "And?"])

    def typed(_prompt: str) -> str:
        for line in lines:
            return line
        raise EOFError

    monkeypatch.setattr("builtins.input", typed)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert run("chat", "hello").out.splitlines()[1:] == ["Good day.", "Again.", ""]


@pytest.mark.usefixtures("hello")
def test_chat_with_an_unknown_service_names_the_nearest(run) -> None:
    done = run("chat", "helo", "Hi")
    assert (done.status, "perhaps service/hello" in done.err) == (4, True)


@pytest.mark.usefixtures("hello")
def test_chat_with_a_named_service_asks_the_gateway_alone(run, hello) -> None:
    assert run("chat", "hello", "Hi").out == "Good day.\n"
    assert not [path for path in hello.asked if "/service" in path]


def test_chat_with_several_services_asks_which(run, hello) -> None:
    hello.serve({"name": "second", "model": "m"})
    done = run("chat", "What is it?")
    assert (done.status, "there are 2: hello, second" in done.err) == (2, True)


@pytest.mark.usefixtures("world")
def test_models_are_added_listed_shown_and_removed(run, tmp_path: Path, world) -> None:
    assert "version 1: 10B, gguf" in run("model", "add", "small", "x.gguf").out
    assert world.all("model")["small"]["spec"]["source"] == str(Path("x.gguf").absolute())
    assert "sha256:0123456789ab" in run("model", "ls").out
    assert yaml.safe_load(run("model", "show", "small").out)["name"] == "small"
    assert json.loads(run("model", "show", "small", "--json").out)["name"] == "small"
    assert run("model", "rm", "small").status == 0
    assert json.loads(run("model", "ls", "--json").out) == []
    done = run("model", "add", "small", "/missing")
    assert (done.status, "is not a file" in done.err) == (2, True)


@pytest.mark.usefixtures("world")
def test_keys_are_created_listed_and_revoked(run, world) -> None:
    done = run("key", "create", "app", "--role", "viewer", "--expires", "1d")
    assert done.out.splitlines()[1] == "mdg_new"
    assert "viewer" in run("key", "ls").out
    assert json.loads(run("key", "create", "b", "--json").out)["key"] == "mdg_new"
    assert run("key", "revoke", "app").out == (
        "app is revoked.\nKeys that app made are still alive (1); revoke each of them by:\n"
        "  madang key revoke app-2 --project local/main\n"
    )
    assert run("key", "revoke", "app").status == 4
    run("key", "create", "app")
    along = "app is revoked.\nlocal/main/app-2 is revoked.\n"
    assert run("key", "revoke", "app", "--made").out == along
    run("key", "create", "app")
    assert json.loads(run("key", "revoke", "app", "--json").out)["alive"][0]["name"] == "app-2"
    assert run("key", "create", "c", "--expires", "soon").status == 2
    assert run("key", "create", "c", "--role", "king").status == 2


@pytest.mark.usefixtures("hello")
def test_a_key_for_a_service_that_is_not_there_is_made_and_says_so(run) -> None:
    done = run("key", "create", "app", "--model", "hello", "--model", "helo", "--model", "a/b/c")
    assert (done.status, done.out.splitlines()[1]) == (0, "mdg_new")
    (said,) = done.err.splitlines()
    assert "is called helo yet" in said


@pytest.mark.usefixtures("world")
def test_a_key_is_shown_to_who_may_see_no_services(run, monkeypatch) -> None:
    def refused(*_: object) -> None:
        raise Rejected("auth.no-right", "key/narrow", right="read", role="member", where="here")

    monkeypatch.setattr(Client, "list", refused)
    done = run("key", "create", "app", "--model", "hello")
    assert (done.status, done.out.splitlines()[1], done.err) == (0, "mdg_new", "")


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (("key", "create", "x", "--modle", "y"), "madang key create --help"),
        (("usage", "--by", "year"), "madang usage --help"),
        (("frobnicate",), "madang --help"),
    ],
)
def test_what_is_typed_wrong_leads_to_the_help_of_that_command(run, arguments, command) -> None:
    assert run(*arguments).err.splitlines()[1] == f"See how it is used with: {command}"


def test_doctor_ends_with_1_when_something_is_not_well(run, world) -> None:
    done = run("doctor")
    assert (done.status, done.out) == (0, "✓ node/vm is in sight\nAll is well.\n")
    world.serve({"name": "unwell", "model": "m"})
    done = run("doctor")
    assert (done.status, "✗ the home's disk has only 1GB free\n  Make room" in done.out) == (
        1,
        True,
    )
    assert len(json.loads(run("doctor", "--json").out)["items"]) == 2


def test_what_needs_no_server_is_answered_without_one(run) -> None:
    assert json.loads(run("schema", "service").out)["title"] == "Service"
    assert "at" in json.loads(run("schema", "event").out)["properties"]
    assert run("version").out.startswith("madang ")
    assert set(json.loads(run("version", "--json").out)) == {"version", "python"}
    for shell in ("bash", "zsh", "fish"):
        assert "madang" in run("completion", shell).out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(run, command: str) -> None:
    done = run(command, "--help")
    assert (done.status, f"madang {command}" in done.out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (("get", "servce"), 2, "cli.unknown-kind"),
        (("explain", "service"), 2, "cli.no-name"),
        (("get", "service", "nobody"), 4, "cli.not-found"),
        (("get", "service", "helo"), 4, "cli.not-found-near"),
        (("frobnicate",), 2, "cli.usage"),
        (("get", "service", "--frob"), 2, "cli.usage"),
        (("status", "--home", "/nowhere"), 75, "control.not-started"),
    ],
)
@pytest.mark.usefixtures("hello")
def test_errors_have_an_exit_code_by_kind_and_one_shape_in_json(
    run, arguments, status: int, code: str
) -> None:
    done = run(*arguments)
    assert (done.status, done.out, len(done.err.splitlines())) == (status, "", 2), done.err
    done = run(*arguments, "--json")
    error = json.loads(done.err)["error"]
    assert (done.status, done.out, error["code"]) == (status, "", code)
    assert error["message"]
    assert error["hint"]


def test_a_wrong_key_is_exit_code_77(run, world, monkeypatch) -> None:
    monkeypatch.setenv("MADANG_KEY", "mdg_wrong")
    assert run("status").status == 77


def test_nothing_there_is_exit_code_75_and_the_hint_is_up(run, free_port, monkeypatch) -> None:
    monkeypatch.setenv("MADANG_URL", f"http://127.0.0.1:{free_port}")
    monkeypatch.setenv("MADANG_KEY", "k")
    done = run("status")
    assert (done.status, done.err.splitlines()[1]) == (75, "Start it with: madang up")


def test_what_should_not_happen_is_one_line_unless_debugging(run, monkeypatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("madang.cli.about.tell", broken)
    done = run("version")
    assert (done.status, "Traceback" in done.err) == (70, False)
    assert "ZeroDivisionError" in done.err
    monkeypatch.setenv("MADANG_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run("version")


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    program = [sys.executable, str(Path(__file__).parent / "patched.py"), "schema", "service"]
    done = subprocess.run(program, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_sentence_of_a_newer_server_is_passed_on(capsys) -> None:
    error = output.MadangError("new.code", "s")
    error.add_note("What is new.")
    error.add_note("Do this.")
    output.complain(error, as_json=False)
    assert capsys.readouterr().err == "What is new.\nDo this.\n"


@pytest.mark.usefixtures("hello")
def test_in_korean_everything_that_is_said_is_korean(run, monkeypatch) -> None:
    monkeypatch.setenv("MADANG_LANG", "ko")
    assert "서비스" in run("status").out
    assert "준비됨" in run("get", "service").out
    assert run("get", "servce").err.startswith("servce 종류는 없습니다")
    assert "시작하세요: madang up" in run("status", "--home", "/nowhere").err


@pytest.mark.usefixtures("hello")
def test_the_next_command_is_named_to_people_only(run, monkeypatch) -> None:
    assert "next:" not in run("delete", "service/hello").out
    monkeypatch.setattr(output.sys.stdout, "isatty", lambda: True, raising=False)
    output.next_step("next.up")
