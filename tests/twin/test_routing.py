"""Requests on a virtual clock, by the gateway's own decisions; lists as strangers write them."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madang.cli import main
from madang.errors import Rejected
from madang.twin.calls import Asked, read_calls
from madang.twin.door import body_of
from madang.twin.engines import ANSWER_S, TOKEN_S, Call, Engine
from madang.twin.routing import FLOODER, NAMES, Play, Yard, flood_of, played, replicas_of, told

KEYS = {"ttft_mean_s", "ttft_p50_s", "ttft_p99_s", "under_5s", "hit_rate"}


def line(at=0, prompt=1024, output=8, ids=(1, 2)):
    said = {"timestamp": at, "input_length": prompt, "output_length": output}
    return json.dumps(said | {"hash_ids": list(ids)})


def busy(number=240, every_s=0.5, prompt=6000, tenants=4):
    """Return turns of 30 conversations, each of which begins as it did before."""
    return [
        Asked(turn * every_s, prompt, 40, (0, *range(100 * (turn % 30) + 1, 100 * (turn % 30) + 9)),
              f"t{turn % tenants}")
        for turn in range(number)
    ]  # fmt: skip


def play(asked, policy, rates=(8000.0, 8000.0)):
    one = Play(asked, Yard(rates), policy)
    assert [*one.run()][-1] == len(asked)
    return one


def figures(asked, policy, flood=False, rates=(8000.0, 8000.0)):
    return dict(played(asked, Yard(rates), [policy], flood, lambda *_: None))[policy]


@pytest.fixture
def ask(tmp_path, capsys):
    """Ask about a list on two replicas."""

    def ask(content, *more, form=("--json",)):
        path = tmp_path / "calls"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        given = ["--trace", str(path), "--replicas", "2x8000", *form]
        status = main(["twin", "routing", *given, *more])
        return status, *capsys.readouterr()

    return ask


def test_every_policy_answers_all_and_says_whose_rule_it_is(ask):
    status, out, _ = ask("\n".join([line(), line(500), line(1000, 700, 3, [])]))
    answer = json.loads(out)
    assert (status, list(answer)) == (0, list(NAMES))
    assert all(found.keys() >= KEYS and found["calls"] == 3 for found in answer.values())
    assert [found["re_implemented"] for found in answer.values()] == [False] + [True] * 4


@pytest.mark.parametrize("pack", [lambda b: b, gzip.compress, lambda b: b"\xef\xbb\xbf" + b,
                                  lambda b: b.replace(b"\n", b"\r\n\r\n")],
                         ids=["plain", "gzip", "mark", "blank-lines"])  # fmt: skip
def test_a_list_is_the_same_however_it_is_packed(ask, pack):
    plain = "\n".join([line(5), line(2500, ids=[1, 2, 3])]).encode()
    _, wanted, _ = ask(plain)
    assert ask(pack(plain))[:2] == (0, wanted)


def test_a_list_of_the_azure_form_is_read_in_order_of_time():
    rows = [
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        "2023-11-16 18:15:50.9951690,396,109",
        "2023-11-16 18:15:46.6805900,374,44",
    ]
    first, second = read_calls(rows, "f")
    assert (first.prompt, first.output, first.came_s, first.chain) == (374, 44, 0, ())
    assert second.came_s == pytest.approx(4.314579)


def test_only_whole_blocks_are_shared_and_the_second_tells_the_tenant():
    (found,) = read_calls([line(prompt=1100, ids=[3, 27, 5])], "f")
    assert (found.chain, found.tenant) == ((3, 27), "t7")


@pytest.mark.parametrize(("content", "words"), [
    ("", "no request"),
    (line() + "\n{", "calls:2: this is no JSON object"),
    (line() + "\n[1]", "calls:2: this is no JSON object"),
    ('{"timestamp": 0, "input_length": 5}', "calls:1: output_length is missing"),
    (line(-1), "calls:1: timestamp can't be -1"),
    (line().replace("0", "NaN", 1), "calls:1: timestamp can't be NaN"),
    (line(10**400), "calls:1: timestamp can't be 1000"),
    (line("now"), "calls:1: timestamp can't be \"now\""),
    (line(prompt=0), "calls:1: input_length can't be 0"),
    (line(prompt=True), "calls:1: input_length can't be true"),
    (line(prompt=2**20 + 1), "calls:1: input_length can't be 1048577"),
    (line(output=-1), "calls:1: output_length can't be -1"),
    (line(output=1.5), "calls:1: output_length can't be 1.5"),
    (line(ids=[1, -2]), "calls:1: hash_ids can't be [1, -2]"),
    (line(ids=["a"]), "calls:1: hash_ids can't be [\"a\"]"),
    (line(ids=[1] * 3000), "calls:1: hash_ids can't be [1, 1"),
    ("a,b\n1,2", "TIMESTAMP"),
    ("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,1", "calls:2: TIMESTAMP can't be yest"),
    ("TIMESTAMP,ContextTokens,GeneratedTokens\n1,x,1", "calls:2: ContextTokens can't be x"),
    ("TIMESTAMP,ContextTokens,GeneratedTokens\n1,1,-1", "calls:2: GeneratedTokens can't be -1"),
    ("TIMESTAMP,ContextTokens,GeneratedTokens\n1,1,1,1", "calls:2"),
    (b"\x1f\x8bnonsense", "calls"),
    (b"\xff\xfe", "calls"),
], ids=lambda value: str(value)[:24])  # fmt: skip
def test_what_cannot_be_read_is_refused_by_line_and_column(ask, content, words):
    status, out, err = ask(content, form=())
    assert (status, out) == (2, "")
    assert words in err


@pytest.mark.parametrize("given", [
    ("--replicas", "8"), ("--replicas", "0x8000"), ("--replicas", "300x1"), ("--replicas", "axb"),
    ("--replicas", "1x0"), ("--load", "0"), ("--load", "nan"), ("--policy", "best"),
    ("--policy", ""), ("--unstreamed", "1.1"), ("--unstreamed", "-0.1"), ("--unstreamed", "nan"),
], ids=" ".join)  # fmt: skip
def test_a_question_that_makes_no_sense_is_refused(ask, given):
    status, out, err = ask(line(), *given)
    assert (status != 0, out, bool(err)) == (True, "", True)


@given(st.lists(st.text(max_size=60), max_size=4))
def test_any_text_is_read_or_refused(lines):
    try:
        found = read_calls(lines, "f")
    except Rejected:
        return
    assert found


def test_a_replica_reads_one_prompt_after_the_other_and_writes_all_answers_at_once():
    due = []
    engine = Engine(1000.0, lambda at, _, call: due.append((at, call)))
    one, two = (Call(n, Asked(0, 2048, 10, (1, 2, 3, 4)), 0.0) for n in (1, 2))
    engine.take(one, 0.0)
    engine.take(two, 0.0)
    assert due == [(2.048, one)], "the second waits"
    engine.write(one, 2.048)
    assert due[1][0] == pytest.approx(2.048 + 10 * (TOKEN_S + ANSWER_S))
    assert two.cached == 2047, "the first token's own still has to be read"
    assert due[2][1] is two


def test_ours_sends_a_conversation_where_it_was():
    own, other = (play(busy(), name, (4000.0,) * 4) for name in ("madang", "least-request"))
    assert told(own.calls)["hit_rate"] > told(other.calls)["hit_rate"]


def test_a_replay_is_the_same_each_time():
    assert figures(busy(), "madang") == figures(busy(), "madang")


def test_unequal_replicas_get_unequal_parts():
    own = play(busy(300, 0.15), "madang", (12_000.0, 2_000.0))
    fast = sum(call.replica == 0 for call in own.calls)
    assert fast > 0.7 * len(own.calls)


def test_unequal_replicas_are_told_apart_though_nothing_is_streamed():
    rates, waits = (12_000.0, 2_000.0), []
    for part in (0.0, 1.0):
        one = Play(busy(900, 0.15), Yard(rates, unstreamed=part), "madang")
        assert [*one.run()][-1] == 900
        waits.append(told(one.calls)["ttft_mean_s"])
    assert waits[1] < 1.6 * waits[0]


@pytest.mark.parametrize("part", [0.0, 0.25, 0.5, 1.0])
def test_the_part_that_was_asked_for_is_not_streamed_and_the_same_each_time(part):
    one, other = (Play(busy(400), Yard((8000.0,), unstreamed=part), "madang") for _ in range(2))
    whole = [not call.is_streamed for call in one.calls]
    assert sum(whole) == pytest.approx(400 * part, abs=8)
    assert whole == [not call.is_streamed for call in other.calls]


def test_those_who_ask_engines_choose_the_same_whether_answers_are_streamed_or_not(ask):
    content = "\n".join(line(100 * number) for number in range(40))
    (_, one, _), (_, other, _) = (
        ask(content, "--policy", "least-request,llm-d-like", "--unstreamed", part)
        for part in ("0", "1")
    )
    assert one == other


GOLDEN = {"madang": 0.4783, "round-robin": 0.6061, "least-request": 0.8621}


@pytest.mark.parametrize("policy", GOLDEN)
def test_a_small_replay_gives_the_figures_that_it_gave(policy):
    assert figures(busy(), policy, rates=(4000.0,) * 4)["ttft_mean_s"] == GOLDEN[policy]


def test_a_flood_makes_others_wait_a_little_and_nobody_is_refused():
    asked = busy(1200, 0.2, 6000)
    own, least = (figures(asked, name, flood=True) for name in ("madang", "least-request"))
    assert own["victims"] == least["victims"] > 100
    assert own["calls"] == len(asked)
    assert own["victims_ttft_mean_s"] < least["victims_ttft_mean_s"] / 2
    assert own["victims_calm_ttft_mean_s"] <= own["victims_ttft_mean_s"]


def test_a_flood_shares_no_prompt_and_asks_for_three_quarters():
    flood = flood_of(100.0, 200.0, 64_000)
    assert sum(each.prompt for each in flood) == pytest.approx(100 * 48_000, rel=0.01)
    assert {each.tenant for each in flood} == {FLOODER}
    bodies = {body_of(Call(number, each, 0.0))[:200] for number, each in enumerate(flood)}
    assert len(bodies) == len(flood)


@given(st.lists(st.integers(0, 1 << 62), min_size=1, max_size=6), st.integers(0, 511))
def test_equal_numbers_are_equal_bytes(ids, rest):
    calls = [Call(n, Asked(0, 512 * len(ids) + rest, 1, tuple(ids)), 0.0) for n in (1, 2)]
    one, two = map(body_of, calls)
    assert len(one) == len(two)
    assert json.loads(one)["messages"][0]["role"] == "user"
    shared = next(
        (i for i, pair in enumerate(zip(one, two, strict=True)) if len({*pair}) > 1), len(one)
    )
    assert shared >= 0.75 * 4 * 512 * len(ids)


def test_replicas_are_read_as_they_are_written():
    assert replicas_of("2x8000, 1x4000") == (8000, 8000, 4000)
