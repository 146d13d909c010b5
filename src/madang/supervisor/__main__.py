"""Start one supervisor: `python -m madang.supervisor HOME [--ready-fd N] [--log-bytes N]`.

Also runs as a file under `python -I -S`, which keeps it small.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
from contextlib import suppress

if not __package__:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(__file__))))

from madang.forms import KNOWN
from madang.supervisor.children import Children, Refused
from madang.supervisor.door import Door
from madang.supervisor.journal import PATH, Journal, Newer
from madang.supervisor.logring import RING_BYTES
from madang.supervisor.loop import Loop
from madang.supervisor.orders import Orders, read_plan
from madang.supervisor.processes import become_root

SOCKET = "run/supervisor.sock"
BOOT = "run/boot.json"
LOCK = "supervisor.lock"
EXIT_FAILED = 1
EXIT_HELD = 3


def main(home: str, ready_fd: int, ring_bytes: int) -> int:
    """Run until SIGTERM; return the exit code."""
    become_root()
    try:
        lock = _move_in(home)
        loop, journal = Loop(), Journal()
        journal.end_leftovers()
        children = Children(loop, journal, ring_bytes)
        door = Door(loop, Orders(children), _listen())
        children.on_change = door.tell
        _watch_signals(loop, children)
        _start_boot_plans(children)
    except BlockingIOError:
        with open(LOCK) as held:
            return _fail(ready_fd, EXIT_HELD, "supervisor.held", home=home, pid=held.read().strip())
    except Newer as newer:
        return _fail(ready_fd, EXIT_FAILED, "file.newer", subject=f"{home}/{PATH}",
                     found=newer.args[0], known=KNOWN)  # fmt: skip
    except (OSError, ValueError) as error:
        return _fail(ready_fd, EXIT_FAILED, "supervisor.failed", home=home, cause=str(error))
    _say(ready_fd, {"ready": True, "pid": os.getpid()})
    loop.run_until(children.all_gone)
    os.unlink(SOCKET)
    os.close(lock)
    return 0


def _move_in(home: str) -> int:
    """Make the home the current folder and take its lock; raises BlockingIOError if it is held."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:  # no child shall inherit what we were started with
            with suppress(OSError):
                os.set_inheritable(int(name), False)
    os.makedirs(home, mode=0o700, exist_ok=True)
    os.chdir(home)  # so that every path of ours is short
    lock = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.ftruncate(lock, 0)
    os.write(lock, b"%d\n" % os.getpid())
    for folder in ("run", "logs", "supervisor"):
        os.makedirs(folder, exist_ok=True)
    return lock


def _listen() -> socket.socket:
    with suppress(FileNotFoundError):
        os.unlink(SOCKET)  # an earlier supervisor's: we hold the lock
    listener = socket.socket(socket.AF_UNIX)
    listener.setblocking(False)
    listener.bind(SOCKET)
    os.chmod(SOCKET, 0o600)
    listener.listen()
    return listener


def _watch_signals(loop: Loop, children: Children) -> None:
    """Turn signals into bytes for the loop: one way for ends of children, orphans and our own."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def heed() -> None:
        if {signal.SIGTERM, signal.SIGINT} & set(reader.recv(4096)) and not children.closing:
            loop.alarm(children, 0.0, children.close)
        loop.alarm(heed, 0.0, children.reap)  # tried again where memory has run out

    loop.watch(reader.fileno(), heed)


def _start_boot_plans(children: Children) -> None:
    """Start what the node's own boot file names; what can't start yet is tried again."""
    if os.path.exists(BOOT):
        with open(BOOT, "rb") as file:
            plans = [read_plan(body) for body in json.load(file)]
        for plan in plans:
            with suppress(Refused):
                children.start(plan)


def _say(ready_fd: int, message: dict[str, object]) -> None:
    if ready_fd >= 0:
        with suppress(OSError):
            os.write(ready_fd, json.dumps(message).encode() + b"\n")
        os.close(ready_fd)


def _fail(ready_fd: int, status: int, code: str, **values: str | int) -> int:
    _say(ready_fd, {"error": {"code": code, "values": values}})
    sys.stderr.write(f"{code}: " + ", ".join(f"{k}={v}" for k, v in values.items()) + "\n")
    return status


if __name__ == "__main__":
    home, *rest = sys.argv[1:]
    options = dict(zip(rest[::2], rest[1::2], strict=True))
    ready_fd = int(options.get("--ready-fd", -1))
    sys.exit(main(home, ready_fd, int(options.get("--log-bytes", RING_BYTES))))
