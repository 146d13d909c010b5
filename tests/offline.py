"""Runs a command where the only network is loopback: `python tests/offline.py COMMAND…`.

Uses a network namespace of its own. Where the kernel gives none to this user, the command runs
all the same and the guard in tests/conftest.py is what is left; CI does not accept that.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1


def leave_network() -> bool:
    """Move into a namespace that has nothing but a loopback interface, and bring that up."""
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    flags = CLONE_NEWNET if uid == 0 else CLONE_NEWNET | CLONE_NEWUSER
    if libc.unshare(flags) != 0:
        return False
    if uid != 0:
        for name, line in (
            ("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1"),
        ):  # fmt: skip
            with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123
                file.write(line)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", IFF_UP)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, request)
    return True


if __name__ == "__main__":
    if not leave_network():
        print("no network namespace for this user: only the guard in conftest is left")
        if os.environ.get("MADANG_CI"):
            sys.exit("CI runs the tests without a network")
    os.execvp(sys.argv[1], sys.argv[1:])
