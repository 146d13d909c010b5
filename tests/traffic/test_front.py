"""Which requests are meant for this server, by the name and the page that they name."""

from __future__ import annotations

import pytest

from madang.traffic.front import Front

SERVER = ("127.0.0.1", 7071)


def stranger(*headers: tuple[str, str], names: str = "", server=SERVER) -> str:
    front = Front(frozenset(filter(None, names.split(","))))
    return front.stranger([(n.encode(), v.encode("latin-1")) for n, v in headers], server)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_loopback_with_our_port_is_us(host: str) -> None:
    assert stranger(("host", f"{host}:7071")) == ""


@pytest.mark.parametrize(
    "host",
    ["evil.example:7071", "evil.example", "127.0.0.1", "127.0.0.1:7070", "127.0.0.1:7071.evil.org",
     "localhost.:7071", "127.0.0.2:7071", "0.0.0.0:7071", "", " ", "127.0.0.1:7071, evil.example",
     "user@127.0.0.1:7071", "127.1:7071", "2130706433:7071", "[::ffff:127.0.0.1]:7071",
     "127.0.0.1:07071", "127.0.0.1:7071\xff"],
)  # fmt: skip
def test_every_other_name_is_somebody_else(host: str) -> None:
    assert stranger(("host", host)) == "host"


def test_a_request_for_nobody_or_for_two_is_not_for_us() -> None:
    assert stranger() == "host"
    ours = ("host", "127.0.0.1:7071")
    assert stranger(ours, ours) == "host"
    assert stranger(ours, ("host", "evil.example")) == "host"


def test_the_address_that_was_reached_is_us() -> None:
    assert stranger(("host", "127.0.0.9:80"), server=("127.0.0.9", 80)) == ""
    assert stranger(("host", "127.0.0.9"), server=("127.0.0.9", 80)) == "", "80 needs no saying"
    assert stranger(("host", "[fe80::1]:7071"), server=("fe80::1", 7071)) == ""


def test_names_may_be_added_with_any_port_or_with_one() -> None:
    names = "madang.lan,box.lan:8443"
    for host in ("madang.lan", "madang.lan:1", "MADANG.LAN:443", "box.lan:8443"):
        assert stranger(("host", host), names=names) == "", host
    for host in ("box.lan", "box.lan:1", "x.madang.lan", "madang.lan:x", "madang.lan.evil"):
        assert stranger(("host", host), names=names) == "host", host
    page = ("origin", "https://madang.lan")
    assert stranger(("host", "127.0.0.1:7071"), page, names=names) == ""


@pytest.mark.parametrize(
    "page",
    ["null", "https://evil.example", "http://127.0.0.1:9999", "http://127.0.0.1", "file://", "",
     "http://127.0.0.1:7071.evil.example", "http://127.0.0.1:7071@evil.example", "127.0.0.1:7071",
     "chrome-extension://127.0.0.1:7071", "http://127.0.0.1:7071 http://evil.example", "NULL"],
)  # fmt: skip
def test_a_page_of_somebody_else_is_kept_out(page: str) -> None:
    ours = ("host", "127.0.0.1:7071")
    assert stranger(ours, ("origin", page)) == "origin"
    assert stranger(ours, ("origin", "http://127.0.0.1:7071"), ("origin", page)) == "origin"


def test_our_own_page_may_call() -> None:
    assert stranger(("host", "127.0.0.1:7071"), ("origin", "http://localhost:7071")) == ""


@pytest.mark.parametrize("header", ["x-forwarded-host", "x-forwarded-for", "forwarded"])
def test_what_a_proxy_would_say_changes_nothing(header: str) -> None:
    said = (header, "for=127.0.0.1;host=127.0.0.1:7071")
    assert stranger(("host", "evil.example"), said) == "host"
    assert stranger(("host", "127.0.0.1:7071"), (header, "evil.example")) == ""
