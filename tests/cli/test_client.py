"""The client against the stand-in: what it finds, what it returns, what it raises."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest

from madang import errors
from madang.answers import refusal
from madang.client import Client, find


def test_what_is_given_counts_before_the_environment_and_that_before_the_home(
    tmp_path: Path,
) -> None:
    said = {"api": "http://127.0.0.1:1", "gateway": "http://127.0.0.1:2/v1"}
    (tmp_path / "listen.json").write_text(json.dumps(said))
    (tmp_path / "admin.key").write_text("mdg_home\n")
    environ = {"MADANG_HOME": str(tmp_path)}
    assert find(environ=environ) == (said["api"], said["gateway"], "mdg_home")
    environ |= {"MADANG_URL": "http://127.0.0.1:3/", "MADANG_KEY": "mdg_env"}
    assert find(environ=environ) == ("http://127.0.0.1:3", "", "mdg_env")
    assert find("http://127.0.0.1:4", "mdg_given", environ=environ).key == "mdg_given"
    assert find(home=str(tmp_path), environ=environ).key == "mdg_home"


def test_a_home_that_was_never_started_says_so(tmp_path: Path) -> None:
    with pytest.raises(errors.Unavailable, match=r"control\.not-started"):
        find(home=str(tmp_path))
    with pytest.raises(errors.Unauthorized, match=r"client\.no-key"):
        find("http://127.0.0.1:1", environ={"MADANG_HOME": str(tmp_path)})


def test_a_key_that_can_not_travel_in_a_header_is_refused() -> None:
    with pytest.raises(errors.Unauthorized, match=r"client\.bad-key"):
        find("http://127.0.0.1:1", "mdg_\n")


def test_a_server_that_is_not_there_is_named_with_its_code(free_port: int) -> None:
    with (
        Client(f"http://127.0.0.1:{free_port}", "k") as client,
        pytest.raises(errors.Unavailable) as raised,
    ):
        client.status()
    assert raised.value.code == "control.unreachable"
    assert raised.value.subject == f"http://127.0.0.1:{free_port}"


@pytest.mark.parametrize(
    "kind",
    [errors.Rejected, errors.Unauthorized, errors.Forbidden, errors.NotFound, errors.Conflict,
     errors.Unavailable, errors.Corrupt],
)  # fmt: skip
def test_an_error_body_becomes_the_same_error_again(kind: type[errors.MadangError]) -> None:
    sent = kind("room.code", "service/a", key="x")
    body = {"code": sent.code, "subject": sent.subject, "values": sent.values}
    text = json.dumps({"error": {**body, "message": "m", "hint": "h"}}).encode()
    got = refusal(kind.http_status, text, "u")
    assert type(got) is kind
    assert (got.code, got.subject, got.values) == (sent.code, sent.subject, sent.values)
    assert got.__notes__ == ["m", "h"]


def test_a_status_of_its_own_kind_is_still_the_callers_or_the_worlds() -> None:
    text = b'{"error": {"message": "m", "code": "c"}}'
    assert type(refusal(413, text, "u")) is errors.Rejected
    assert type(refusal(502, text, "u")) is errors.Unavailable
    assert refusal(404, text, "u").values == {"subject": "c", "message": "m"}


@pytest.mark.usefixtures("hello")
def test_an_answer_comes_piece_by_piece() -> None:
    with Client() as client:
        assert list(client.chat("hello", [{"role": "user", "content": "a"}])) == [
            "Good ", "day", ".",
        ]  # fmt: skip
        assert client.ask("hello", "a") == "Good day."


@pytest.mark.usefixtures("hello")
def test_a_stream_that_breaks_raises_what_the_gateway_said() -> None:
    with Client() as client, pytest.raises(errors.Unavailable, match=r"gateway\.refused") as raised:
        client.ask("hello", "break")
    assert raised.value.values["message"] == "gone"


@pytest.mark.usefixtures("hello")
def test_a_stream_that_is_left_is_closed_with_the_client() -> None:
    client = Client()
    pieces = client.chat("hello", [{"role": "user", "content": "a"}])
    assert next(pieces) == "Good "
    client.close()
    assert list(pieces) == []


def test_watching_begins_with_what_is_there_and_goes_on_with_what_changes(hello) -> None:
    with Client() as client:
        seen = client.watch("service")
        assert next(seen)["resource"]["status"]["phase"] == "ready"
        hello.serve({"name": "second", "model": "m"})
        phases = [next(seen)["resource"]["status"]["phase"] for _ in range(3)]
    assert phases[:2] == ["pending", "starting"]


@pytest.mark.usefixtures("world")
def test_a_model_is_imported_with_its_progress_told() -> None:
    told: list[tuple[int, int]] = []
    with Client() as client:
        made = client.add_model("m", "/m.gguf", lambda done, whole: told.append((done, whole)))
        assert made["status"]["versions"][0]["number"] == 1
        with pytest.raises(errors.Rejected, match=r"model\.source-not-a-file"):
            client.add_model("m", "/missing")
    assert told == [(5, 10), (10, 10)]


def test_the_project_is_the_keys_own_unless_it_is_given(world, monkeypatch) -> None:
    with Client() as client:
        client.list("service")
        assert client.project == "local/main"
        client.list("node")
    assert world.asked[-2:] == ["GET /api/v1/service?project=local%2Fmain", "GET /api/v1/node?"]
    monkeypatch.setenv("MADANG_PROJECT", "a/b")
    assert Client().project == "a/b"
    assert Client(project="c/d").project == "c/d"


def test_what_answers_without_json_is_not_madang() -> None:
    with pytest.raises(errors.Unavailable, match=r"control\.not-madang"):
        refusal(404, b"<html>", "http://127.0.0.1:1")


def test_an_answer_that_is_cut_off_is_no_answer() -> None:
    """Control died after its head was sent: nothing must be taken for an empty answer."""

    def answer_half(listening: socket.socket) -> None:
        line, _ = listening.accept()
        with line:
            line.recv(1 << 16)
            line.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        answering = threading.Thread(target=answer_half, args=(listening,))
        answering.start()
        port = listening.getsockname()[1]
        with pytest.raises(errors.Unavailable, match=r"control\.broke-off"):
            Client(f"http://127.0.0.1:{port}", "-").whoami()
        answering.join()
