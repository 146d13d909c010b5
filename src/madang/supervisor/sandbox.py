"""What the ranks of a member see of their machine: built by bubblewrap, one sandbox per member.

Its first process is the leader. Everything here was tried: the order matters (a tmpfs mounted after
a bind hides what is below it), and without the two last remounts `/` and `/dev` are writable
memory. Pure: what is run, and what is read, is the business of others.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping

from madang.supervisor.protocol import Mount, Sandbox

PROGRAM = "bwrap"
STAGE = "/tmp"  # noqa: S108
"""Where the sources of a member with a number of its own are mounted, out of sight of all else:
with that number it may not reach below a home, which is its owner's alone."""
LEADER = "/run/madang-leader.py"
"""Where the leader's code lies in a sandbox: of Madang itself nothing is there."""
NOBODY = "65534"
LINKS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64")
OF_THE_SYSTEM = ("/etc/alternatives", "/etc/ld.so.cache", "/etc/ssl/certs", "/etc/localtime")
"""What programs look for and may read, where it is there."""
UNSHARED = (
    "--unshare-user", "--uid", NOBODY, "--gid", NOBODY, "--disable-userns", "--cap-drop", "ALL",
    "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
    "--die-with-parent", "--new-session", "--as-pid-1", "--hostname", "job",
)  # fmt: skip


def argv(sandbox: Sandbox, cwd: str, leader_fd: int, filter_fd: int) -> tuple[str, ...]:
    """Return how the leader is started in it, with its code and the filter on these descriptors."""
    python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    places = stage(sandbox)
    return (
        PROGRAM, *UNSHARED, *(() if sandbox.network == "shared" else ("--unshare-net",)),
        "--seccomp", str(filter_fd),
        "--ro-bind", "/usr", "/usr", *(word for path in LINKS for word in _link(path)),
        "--proc", "/proc", "--dev", "/dev",
        "--size", str(sandbox.shm_bytes), "--tmpfs", "/dev/shm",  # noqa: S108
        "--size", str(sandbox.tmp_bytes), "--tmpfs", "/tmp",  # noqa: S108
        "--ro-bind-data", str(leader_fd), LEADER,
        *_binds("--ro-bind-try", _reads(sandbox), places),
        *_binds("--dev-bind-try", sandbox.devices, places),
        *_binds("--bind", sandbox.writes, places),
        *(word for mount in sandbox.mounts for word in _mount(mount, places)),
        "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", cwd or "/",
        python, "-I", "-S", LEADER,
    )  # fmt: skip


def stage(sandbox: Sandbox) -> dict[str, str]:
    """Return by source where it is mounted first; empty for a member without its own number."""
    if not sandbox.uid:
        return {}
    needed = (*sandbox.writes, *(mount.source for mount in sandbox.mounts))
    found = filter(os.path.exists, (*_reads(sandbox), *sandbox.devices))
    return {path: f"{STAGE}/{n}" for n, path in enumerate(dict.fromkeys((*needed, *found)))}


def _reads(sandbox: Sandbox) -> list[str]:
    reads = (*OF_THE_SYSTEM, os.path.realpath(sys.base_prefix), *sandbox.reads)
    return [path for path in reads if not _is_below("/usr", path)]


def probe() -> tuple[str, ...]:
    """Return a command that ends with 0 where sandboxes can be made; else its last line says why.

    A version tells nothing: whether user namespaces may be made is up to the machine.
    """
    bare = ("--ro-bind", "/usr", "/usr", *(word for path in LINKS for word in _link(path)))
    return (PROGRAM, *UNSHARED, "--unshare-net", *bare, "--proc", "/proc", "--dev", "/dev", "true")


def _link(path: str) -> Iterator[str]:
    """What is a link on the machine (`/bin`) is one in the sandbox; else it is the folder."""
    if os.path.islink(path):
        yield from ("--symlink", os.readlink(path), path)
    elif os.path.isdir(path):
        yield from ("--ro-bind", path, path)


def _binds(kind: str, paths: Iterable[str], places: Mapping[str, str]) -> Iterator[str]:
    for path in paths:
        yield from (kind, places.get(path, path), path)


def _mount(mount: Mount, places: Mapping[str, str]) -> tuple[str, str, str]:
    source = places.get(mount.source, mount.source)
    return "--bind" if mount.is_writable else "--ro-bind", source, mount.place


def _is_below(folder: str, path: str) -> bool:
    return path == folder or path.startswith(folder + "/")


# --- calls of the kernel that no job needs, and that reach beyond its namespaces ------------------

AF_VSOCK = 40
"""Sockets to the host of a virtual machine: no network namespace holds them."""
MACHINES = {
    "x86_64": (0xC000003E, 41, (248, 249, 250, 298, 310, 311, 321, 323, 425, 426, 427)),
    "aarch64": (0xC00000B7, 198, (217, 218, 219, 241, 270, 271, 280, 282, 425, 426, 427)),
}
"""The kernel's name of the machine; numbers of `socket`, and of add_key, request_key, keyctl,
perf_event_open, process_vm_readv and _writev, bpf, userfaultfd, io_uring_setup, _enter, _register
(Linux, `include/uapi/linux/audit.h`, `arch/*/entry/syscalls`)."""
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050001  # with EPERM
X32 = 0x40000000


def call_filter(machine: str) -> bytes:
    """Return a classic BPF program for seccomp; raises KeyError for a machine that is not known."""
    name, socket, refused = MACHINES[machine]
    steps = [(_EQUAL, number) for number in refused]
    checks = [(_AT_LEAST, X32), *steps] if machine == "x86_64" else steps
    program = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, name), (_RETURN, 0, 0, _REFUSE), (_LOAD, 0, 0, 0)]
    for at, (code, number) in enumerate(checks):
        program.append((code, len(checks) - at + 3, 0, number))
    program += [
        (_EQUAL, 0, 2, socket), (_LOAD, 0, 0, 16), (_EQUAL, 1, 0, AF_VSOCK),
        (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE),
    ]  # fmt: skip
    return b"".join(struct.pack("HBBI", *step) for step in program)
