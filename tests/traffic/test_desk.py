"""Keys, models and tables, with time as an argument."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest

from madang.traffic.desk import Desk
from madang.traffic.doors import Head
from madang.traffic.exchange import Exchange
from madang.traffic.limits import Limits
from madang.traffic.refusal import Refusal
from madang.traffic.table import Endpoint, Key, RouteTable, Target, Waiting

TARGET = Target("rep-1", 1, "http://e", "t")
NO_ROOM = Waiting("model.too-large", {"memory": "1GB", "least": "2GB"})


def endpoint(project, name, *targets, **fields):
    return Endpoint(project, name, name, targets, 4096, **fields)


def digest(secret):
    return sha256(secret.encode()).hexdigest()


TABLE = RouteTable(
    3,
    (
        endpoint("seoul/minwon", "bot", TARGET),
        endpoint("seoul/minwon", "sleepy", waiting=NO_ROOM),
        endpoint("seoul/minwon", "vectors", TARGET, features=frozenset({"embeddings"})),
        endpoint("lab", "secret", TARGET),
        endpoint("lab/x", "common", TARGET, visible_to=frozenset({"seoul"})),
    ),
    {
        digest("app"): Key("app", "seoul/minwon", "member", may_infer=True),
        digest("old"): Key("old", "seoul/minwon", "member", may_infer=True, expires_at=100.0),
        digest("boss"): Key("boss", "seoul/minwon", "operator", where="", may_infer=True),
        digest("eyes"): Key("eyes", "seoul/minwon", "viewer"),
        digest("away"): Key("away", "seoul/minwon", "member", where="busan/port", may_infer=True),
        digest("none"): Key("none", "empty", "member", may_infer=True),
    },
)


@pytest.fixture
def desk():
    made = Desk(Limits(requests_max=2))
    made.take(TABLE)
    made.hear(now=0)
    return made


def head(secret):
    return Head("chat", authorization=f"Bearer {secret}".encode())


def admit(desk, secret, model, kind="chat"):
    key = desk.identify(head(secret), at=50, now=0)
    assert isinstance(key, Key)
    field = {"chat": {"messages": [{"role": "user", "content": "x"}]}}.get(kind, {"input": "x"})
    body = json.dumps({"model": model, **field}).encode()
    return desk.admit("req-1", key, kind, body, 0)


def code_of(outcome):
    return outcome.code if isinstance(outcome, Refusal) else "served"


@pytest.mark.parametrize(
    ("secret", "at", "now", "code"),
    [
        ("app", 50, 0, None),
        ("app", 50, 1e6, None),
        ("old", 99, 0, None),
        ("old", 100, 0, "invalid_api_key"),
        ("old", 100, 1e6, "invalid_api_key"),
        ("nobody", 50, 5.0, "invalid_api_key"),
        ("nobody", 50, 5.1, "key_unverified"),
        ("", 50, 1e6, "invalid_api_key"),
    ],
)
def test_a_key_is_called_unknown_only_by_a_fresh_table(desk, secret, at, now, code):
    found = desk.identify(head(secret), at, now)
    assert (found.code if isinstance(found, Refusal) else None) == code


def test_before_any_table_no_key_is_called_wrong():
    empty = Desk(Limits())
    assert code_of(empty.identify(head("app"), 0, 0)) == "key_unverified"
    assert code_of(empty.health(0)) == "no_table"


@pytest.mark.parametrize(
    ("secret", "model", "code"),
    [
        ("app", "bot", "served"),
        ("app", "seoul/minwon/bot", "served"),
        ("app", "secret", "model_not_found"),
        ("app", "lab/secret", "model_not_found"),
        ("app", "lab/absent", "model_not_found"),
        ("app", "lab/x/common", "served"),
        ("app", "common", "model_not_found"),
        ("none", "lab/x/common", "model_not_found"),
        ("away", "lab/x/common", "model_not_found"),
        ("eyes", "lab/x/common", "role_too_low"),
        ("boss", "bot", "served"),
        ("boss", "lab/secret", "served"),
        ("boss", "secret", "model_not_found"),
        ("eyes", "bot", "role_too_low"),
        ("app", "sleepy", "model_not_ready"),
        ("app", "vectors", "unsupported_by_model"),
    ],
)
def test_a_model_is_found_in_the_keys_own_project_or_not_at_all(desk, secret, model, code):
    outcome = admit(desk, secret, model)
    assert code_of(outcome) == code
    assert isinstance(outcome, Refusal | Exchange)


def test_another_projects_model_is_refused_just_like_an_absent_one(desk):
    hidden, absent = admit(desk, "app", "lab/secret"), admit(desk, "app", "lab/absent")
    hidden.values["model"] = absent.values["model"]
    assert hidden == absent


def test_a_refused_model_names_those_that_exist(desk):
    assert admit(desk, "app", "bott").values["models"] == "bot, lab/x/common, sleepy, vectors"
    assert "lab/secret" in admit(desk, "boss", "bott").values["models"]
    assert admit(desk, "none", "bott").message == "gateway.no-models"


def test_a_model_that_waits_says_why_and_when_to_ask_again(desk):
    refusal = admit(desk, "app", "sleepy")
    assert refusal.waiting == NO_ROOM
    assert (b"retry-after", b"1") in refusal.headers


def test_a_key_goes_on_only_while_what_it_calls_is_shown_to_it(desk):
    keys = {digest("app"): Key("app", "seoul/minwon", "member", "uid-1", may_infer=True)}
    shown = endpoint("lab/x", "common", TARGET, visible_to=frozenset({"seoul"}))
    desk.take(RouteTable(4, (shown,), keys))
    exchange = admit(desk, "app", "lab/x/common")
    assert desk.honours(exchange, at=50)
    for endpoints, may in (((shown,), True), ((endpoint("lab/x", "common"),), False), ((), True)):
        desk.take(RouteTable(5, endpoints, keys))
        assert desk.honours(exchange, at=50) is may
    desk.take(RouteTable(6, (shown,), {}))
    assert not desk.honours(exchange, at=50)


def test_an_embedding_model_embeds(desk):
    assert code_of(admit(desk, "app", "vectors", "embeddings")) == "served"


def test_viewers_may_look(desk):
    key = desk.identify(head("eyes"), 50, 0)
    listed = json.loads(desk.look(Head("models"), key))
    assert {each["id"]: each["ready"] for each in listed["data"]} == {
        "bot": True,
        "sleepy": False,
        "vectors": True,
        "lab/x/common": True,
    }


def test_an_operator_sees_others_models_by_their_full_names(desk):
    key = desk.identify(head("boss"), 50, 0)
    names = [each["id"] for each in json.loads(desk.look(Head("models"), key))["data"]]
    assert names == ["bot", "sleepy", "vectors", "lab/secret", "lab/x/common"]
    for name in names:
        assert json.loads(desk.look(Head("model", name), key))["id"] == name


def test_only_a_higher_version_replaces_a_table(desk):
    assert [desk.wants(RouteTable(version)) for version in (2, 3, 4)] == [False, False, True]
    assert Desk(Limits()).wants(RouteTable(0))


def test_a_full_house_is_503_until_somebody_leaves(desk):
    def enter():
        return desk.enter("GET", "/healthz", [(b"host", b"localhost:1")], ("127.0.0.1", 1))

    assert [code_of(enter()) for _ in range(3)] == ["served", "served", "overloaded"]
    desk.leave()
    desk.leave()
    assert code_of(enter()) == "served"


def test_the_pull_acknowledges_the_table_that_is_served(desk):
    assert desk.pull("gw-1", 2.0, 0).serving == 3
