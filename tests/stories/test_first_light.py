"""From one command to a real model's answer, and what a user does next."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from .conftest import Yard, is_alive

pytestmark = [pytest.mark.story, pytest.mark.timeout(180)]


def test_up_tells_everything_in_one_object(running: Yard) -> None:
    told = running.told
    assert told["api"].startswith("http://127.0.0.1:")
    assert told["gateway"].endswith("/v1")
    port = int(told["api"].rpartition(":")[2])
    assert told["gateway"] == f"http://127.0.0.1:{port + 1}/v1"
    assert told["home"] == str(running.home)
    assert told["api_key"] == (running.home / "admin.key").read_text().strip()
    assert stat.S_IMODE((running.home / "admin.key").stat().st_mode) == 0o600
    assert 0 < told["first_token_s"] < 60


def test_up_again_is_quick_and_changes_nothing(running: Yard) -> None:
    before = running.json("get", "replica")
    again = running.up()
    assert {k: again[k] for k in ("api", "gateway", "api_key", "home")} == {
        k: running.told[k] for k in ("api", "gateway", "api_key", "home")
    }
    assert running.json("get", "replica") == before


def test_the_official_client_works_unchanged(running: Yard) -> None:
    client = openai.OpenAI(base_url=running.told["gateway"], api_key=running.told["api_key"])
    with client:
        assert "hello" in [model.id for model in client.models.list()]
        question = [{"role": "user", "content": "What is the capital of South Korea?"}]
        answer = client.chat.completions.create(
            model="hello", messages=question, max_tokens=16, temperature=0
        )
        assert "Seoul" in (answer.choices[0].message.content or "")
        stream = client.chat.completions.create(
            model="hello", messages=question, max_tokens=16, temperature=0, stream=True
        )
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
        assert len([p for p in pieces if p]) > 3
        assert client.completions.create(model="hello", prompt="1 2 3", max_tokens=4).choices
        vector = client.embeddings.create(model="hello", input="마당").data[0].embedding
        assert len(vector) == 576


def test_the_model_passed_its_gate_before_it_served(running: Yard) -> None:
    (build,) = running.json("get", "build")
    assert build["status"]["verdict"] == "passed"
    assert {check["name"] for check in build["status"]["checks"]} == {
        f"smoke.{name}"
        for name in ("identity", "answers", "streams", "max_tokens", "stop", "json_schema",
                     "usage", "cancels")
    }  # fmt: skip
    codes = [event["code"] for event in running.json("get", "event")]
    assert codes.index("build.passed") < codes.index("replica.ready")


def test_what_was_used_is_counted(running: Yard) -> None:
    before = running.json("status")["usage"]
    running.json("chat", "hello", "Count to three.", "--max-tokens", "24")
    running.until(
        "usage has arrived",
        lambda: running.json("status")["usage"]["requests"] == before["requests"] + 1,
    )
    after = running.json("status")["usage"]
    assert after["prompt_tokens"] > before["prompt_tokens"]
    assert after["output_tokens"] > before["output_tokens"]


def test_a_replica_knows_its_process(running: Yard) -> None:
    (replica,) = running.replicas("hello")
    pid = replica["status"]["pid"]
    assert is_alive(pid)
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    assert running.told["api_key"].encode() not in command


def test_a_failing_gate_keeps_a_model_out_and_says_why(running: Yard) -> None:
    running.fake("mute", fail={"no_stream": True})
    running.apply(kind="service", name="mute", model="mute")
    running.until_phase("service", "mute", "failed")
    told = running.run("explain", "service/mute")
    assert "smoke.streams" in told.stdout
    client = openai.OpenAI(base_url=running.told["gateway"], api_key=running.told["api_key"])
    with client, pytest.raises(openai.InternalServerError):
        client.with_options(max_retries=0).chat.completions.create(
            model="mute", messages=[{"role": "user", "content": "hi"}]
        )
    running.json("delete", "service/mute")


def test_a_crash_loop_ends_in_failed_with_the_last_lines(running: Yard) -> None:
    running.fake("broken", fail={"load": "out of memory"})
    running.apply(kind="service", name="broken", model="broken")
    running.until_phase("service", "broken", "failed")
    assert "out of memory" in running.run("explain", "service/broken").stdout
    running.json("delete", "service/broken")


def test_what_cannot_be_placed_is_explained_with_a_fix_that_works(running: Yard) -> None:
    running.fake("small")
    running.apply(kind="service", name="huge", model="small", needs={"memory": "900TB"})
    running.until_phase("service", "huge", "pending")
    fix = running.json("explain", "service/huge")["smallest_fix"]
    assert fix["code"] == "placement.fix-memory"
    memory = fix["values"]["memory"]
    running.apply(kind="service", name="huge", model="small", needs={"memory": memory})
    running.until_phase("service", "huge", "ready")
    running.json("delete", "service/huge")


def test_errors_are_one_line_with_the_next_step(running: Yard) -> None:
    done = running.run("get", "servce")
    assert done.returncode == 2
    assert "service" in done.stderr
    done = running.run("apply", "-f", "-", stdin="kind: service\nname: x\nmodel: y\nscal: 2\n")
    assert done.returncode == 2
    assert "scale" in done.stderr
    assert running.run("get", "service", "nobody").returncode == 4
    assert "Traceback" not in done.stderr


def test_ten_starts_at_once_make_one_madang(new_yard: Callable[[str], Yard]) -> None:
    yard = new_yard("ten")
    with ThreadPoolExecutor(10) as pool:
        done = list(pool.map(lambda _: yard.run("up", "--json"), range(10)))
    assert [d.returncode for d in done] == [0] * 10, [d.stderr for d in done]
    assert len(yard.replicas("hello")) == 1
    mine = subprocess.run(
        ["pgrep", "-f", f"supervisor/__main__.py {yard.home}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert len(mine.stdout.split()) == 1


def test_homes_live_side_by_side_and_down_leaves_nothing(
    new_yard: Callable[[str], Yard], running: Yard
) -> None:
    other = new_yard("a-home-with-a-name-that-is-" + "far-" * 20 + "too-long-for-a-socket")
    other.up()
    assert other.told["api"] != running.told["api"]
    pids = [other.supervisor, other.pid("control"), other.pid("gateway")]
    pids += [r["status"]["pid"] for r in other.replicas("hello")]
    other.json("down")
    other.until("everything has ended", lambda: not any(map(is_alive, pids)), 10)
    assert other.run("down").returncode == 0, "a second down is a no-op"
    assert running.phase("service", "hello") == "ready"


def test_korean_is_spoken_to_those_who_speak_it(running: Yard) -> None:
    env = {**os.environ, "MADANG_HOME": str(running.home), "MADANG_LANG": "ko"}
    madang = Path(sys.executable).with_name("madang")
    done = subprocess.run(
        [madang, "get", "service", "nobody"], env=env, capture_output=True, text=True, check=False
    )
    assert any("가" <= letter <= "힣" for letter in done.stderr)
