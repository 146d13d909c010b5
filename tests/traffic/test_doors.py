"""Paths, methods and the few headers that count."""

from __future__ import annotations

import pytest

from madang.traffic.doors import Head, open_door
from madang.traffic.refusal import Refusal

CHAT = "/v1/chat/completions"


def enter(*headers, method="POST", path=CHAT, bound=100):
    return open_door(method, path, headers, bound)


@pytest.mark.parametrize(
    ("method", "path", "door", "model"),
    [
        ("POST", CHAT, "chat", ""),
        ("POST", "/v1/completions", "completions", ""),
        ("POST", "/v1/embeddings", "embeddings", ""),
        ("GET", "/v1/models", "models", ""),
        ("GET", "/v1/models/seoul/minwon/bot", "model", "seoul/minwon/bot"),
        ("GET", "/healthz", "health", ""),
    ],
)
def test_each_path_has_its_door(method, path, door, model):
    head = enter(method=method, path=path)
    assert isinstance(head, Head)
    assert (head.door, head.model) == (door, model)


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/chat/completions/", "/V1/models", "/v1//models"])
def test_any_other_path_is_404(path):
    refusal = enter(path=path)
    assert isinstance(refusal, Refusal)
    assert refusal.status == 404


@pytest.mark.parametrize(
    ("headers", "length"),
    [
        ([], 0),
        ([(b"content-length", b"100")], 100),
        ([(b"transfer-encoding", b"chunked")], None),
        ([(b"transfer-encoding", b"Chunked"), (b"x-other", b"1")], None),
        ([(b"content-encoding", b"identity")], 0),
    ],
)
def test_the_length_of_a_body_is_known_or_it_comes_in_chunks(headers, length):
    head = enter(*headers)
    assert isinstance(head, Head)
    assert head.length == length


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"content-length", b"101")], 413),
        ([(b"content-length", b"9" * 30)], 400),
        ([(b"content-length", b"+1")], 400),
        ([(b"content-length", b"1"), (b"content-length", b"1")], 400),
        ([(b"content-length", b"1"), (b"transfer-encoding", b"chunked")], 400),
        ([(b"transfer-encoding", b"gzip, chunked")], 400),
        ([(b"transfer-encoding", b"identity")], 400),
        ([(b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")], 400),
        ([(b"content-encoding", b"gzip")], 415),
        ([(b"host", b"a"), (b"host", b"b")], 400),
        ([(b"authorization", b"Bearer a"), (b"authorization", b"Bearer a")], 400),
        ([(b"upgrade", b"websocket")], 400),
    ],
)
def test_a_head_that_can_be_read_in_two_ways_is_refused(headers, status):
    refusal = enter(*headers)
    assert isinstance(refusal, Refusal)
    assert refusal.status == status
    assert refusal.close == (status in (400, 413))
