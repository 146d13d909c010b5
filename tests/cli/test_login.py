"""login, logout, whoami: one key for all later commands, kept for its owner alone."""

from __future__ import annotations

import io
import json

import pytest
from standin import KEY  # beside us, where pytest does not look

from madang import settings
from madang.cli.options import Options


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch):
    """Let a key be typed into the next command."""

    def typed(key: str) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(key + "\n"))

    return typed


@pytest.fixture
def address(world, monkeypatch: pytest.MonkeyPatch) -> str:
    """The stand-in's address, known to nobody but who is told."""
    import os

    url = os.environ["MADANG_URL"]
    monkeypatch.delenv("MADANG_URL")
    monkeypatch.delenv("MADANG_KEY")
    return url


def test_a_login_is_used_by_every_later_command_until_logout(run, address, typed) -> None:
    typed(KEY)
    done = run("login", address)
    assert done.status == 0, done.err
    assert "key/admin" in done.out
    assert settings.login().stat().st_mode & 0o777 == 0o600
    assert json.loads(run("whoami", "--json").out)["api"] == address
    assert "site" in run("whoami").out
    assert run("get", "node").status == 0
    assert run("logout").status == 0
    assert run("get", "node").status != 0
    assert run("logout", "--json").out == '{\n  "logged_out": false\n}\n'


def test_a_key_that_is_not_good_is_not_kept(run, address, typed) -> None:
    typed("mdg_wrong")
    refused = run("login", address)
    assert refused.status == 77
    assert not settings.login().exists()
    assert "mdg_wrong" not in refused.out + refused.err


@pytest.mark.parametrize(("url", "key"), [("127.0.0.1:7070", KEY), ("http://", KEY)])
def test_what_is_no_address_is_refused(run, typed, url, key) -> None:
    typed(key)
    assert "address" in run("login", url).err


def test_no_key_is_refused(run, address, typed) -> None:
    typed("")
    assert "No key" in run("login", address).err


def test_the_environment_counts_before_a_login(run, address, typed, monkeypatch) -> None:
    typed(KEY)
    run("login", address)
    monkeypatch.setenv("MADANG_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("MADANG_KEY", KEY)
    assert run("whoami").status == 75


class Rotating:
    """A client that gives any key this secret."""

    def __init__(self, secret: str) -> None:
        self.secret = secret

    def __enter__(self) -> Rotating:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def rotate_key(self, name: str, overlap_s: float) -> dict[str, str]:
        return {"key": self.secret}


def test_a_secret_rotated_with_no_overlap_is_said_to_open_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setattr(Options, "client", lambda _: Rotating("mdg_new"))
    told = [
        run("key", "rotate", "shop", *more, "--home", str(tmp_path)).out
        for more in ((), ("--overlap", "0s"))
    ]
    assert told[0] == told[1]


def test_that_a_new_secret_is_in_the_file_of_the_home_is_told_where_it_is(
    run, tmp_path, monkeypatch
) -> None:
    (tmp_path / "admin.key").write_text("mdg_new\n")
    told = []
    for secret in ("mdg_new", "mdg_other"):
        monkeypatch.setattr(Options, "client", lambda _, secret=secret: Rotating(secret))
        said = run("key", "rotate", "admin", "--home", str(tmp_path))
        assert secret in said.out.splitlines()
        told.append(str(tmp_path / "admin.key") in said.out + said.err)
    assert told == [True, False]
