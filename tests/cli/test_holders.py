"""Who holds a port is told from the kernel's tables, in harmless words, or not at all."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from madang.holders import holder_of

ROW = "0: {address}:{port:04X} 00000000:0000 {state} 0:0 0:0 0 0 0 {inode}"


def made(proc: Path, name: str, **row: object) -> None:
    (proc / "net").mkdir(exist_ok=True)
    (proc / "net" / name).write_text(f"sl local_address\n{ROW.format(**row)}\n")


def process(proc: Path, pid: int, comm: str, inode: int) -> None:
    (proc / str(pid) / "fd").mkdir(parents=True)
    (proc / str(pid) / "comm").write_text(f"{comm}\n")
    (proc / str(pid) / "fd" / "7").symlink_to(f"socket:[{inode}]")


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("", socket.AF_INET6)])
def test_who_listens_here_is_found(host: str, family: socket.AddressFamily) -> None:
    dual = family is socket.AF_INET6
    with socket.create_server((host, 0), family=family, dualstack_ipv6=dual) as server:
        port = server.getsockname()[1]
        comm = Path("/proc/self/comm").read_text().strip()
        assert holder_of("127.0.0.1", port) == f"{comm}, pid {os.getpid()}"
    assert holder_of("127.0.0.1", port) == ""


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("tcp", "0100007F"),
        ("tcp", "00000000"),
        ("tcp6", "00000000000000000000000000000000"),
        ("tcp6", "0000000000000000FFFF00000100007F"),
    ],
)
def test_every_address_that_keeps_this_one_out_counts(
    tmp_path: Path, name: str, address: str
) -> None:
    process(tmp_path, 4711, "python3", 99)
    made(tmp_path, name, address=address, port=7070, state="0A", inode=99)
    assert holder_of("127.0.0.1", 7070, tmp_path) == "python3, pid 4711"
    assert holder_of("127.0.0.1", 7071, tmp_path) == ""
    assert holder_of("127.0.0.2", 7070, tmp_path) == (
        "" if "7F" in address else "python3, pid 4711"
    )


def test_a_connection_is_no_listener_and_another_users_process_is_not_told(tmp_path: Path) -> None:
    process(tmp_path, 4711, "python3", 99)
    made(tmp_path, "tcp", address="0100007F", port=7070, state="01", inode=99)
    assert holder_of("127.0.0.1", 7070, tmp_path) == ""
    made(tmp_path, "tcp", address="0100007F", port=7070, state="0A", inode=100)
    assert holder_of("127.0.0.1", 7070, tmp_path) == ""
    assert holder_of("127.0.0.1", 7070, tmp_path / "nothing") == ""


def test_a_process_that_has_named_itself_after_a_terminals_orders_is_harmless(
    tmp_path: Path,
) -> None:
    process(tmp_path, 4711, "\x1b[2Jx", 99)
    made(tmp_path, "tcp", address="0100007F", port=7070, state="0A", inode=99)
    assert holder_of("127.0.0.1", 7070, tmp_path) == "\\x1b[2Jx, pid 4711"
