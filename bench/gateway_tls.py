"""What TLS costs the gateway: CPU per request, piece of a stream and handshake, beside clear text.

Ours and sglang-router, each in both ways, in one run; the load is bench/wire's with OpenSSL. TLS
1.3, a certificate of P-256; every connection begins with a whole handshake, none is resumed.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from doors import Door, certificate, compiled, engine, ours, request, sglang, table
from gateway import ROUNDS, SECONDS, Bench
from rows import Row, write

ALONE = {"Connection": "close"}
"""Of a request that has a connection of its own."""
SHOWN = (
    ("a request, 16 at once", "c=16 us", 75.0),
    ("a piece of a stream, 64 streams", "chunk us", 12.0),
)
"""Name, what is looked at, and its floor by TLS, in microseconds."""


def measure(bench: Bench, door: Door, seconds: float) -> None:
    """One round: requests on connections that stay, streams, and requests that each make one."""
    bench.warm(door, seconds)
    bench.requests(door, "c=16", request(door.port), 16, seconds)
    bench.streams(door, seconds)
    bench.requests(door, "alone", request(door.port, extra=ALONE), 4, seconds)


def handshake_us(clear: Door, secure: Door) -> float:
    """Return what a handshake costs: a connection of its own by TLS, less one in clear text."""
    kept = secure.typical("c=16 us") - clear.typical("c=16 us")
    return round(secure.typical("alone us") - clear.typical("alone us") - kept, 1)


def rows(clear: list[Door], secure: list[Door]) -> list[Row]:
    """Return what was seen: by TLS over in clear text, and ours over the peer's."""
    found = []
    for what, name, floor in SHOWN:
        for plain, door in zip(clear, secure, strict=True):
            own, before = door.typical(name), plain.typical(name)
            bar = floor if door is secure[0] else None
            found.append(
                Row(f"{door.name}: {what}", own, "us CPU", bar, None, plain.name, before,
                    round(own / before, 3))
            )  # fmt: skip
        if secure[1:]:
            mine, theirs = (each.typical(name) for each in secure[:2])
            found.append(
                Row(f"{secure[0].name}: {what}", mine, "us CPU", None, None, secure[1].name, theirs,
                    round(mine / theirs, 3))
            )  # fmt: skip
    shakes = [
        Row(f"{door.name}: a handshake", handshake_us(plain, door), "us CPU")
        for plain, door in zip(clear, secure, strict=True)
    ]
    errors = [
        Row(f"{door.name}: errors", sum(door.seen["errors"]), "", 0.0) for door in (*clear, *secure)
    ]
    return found + shakes + errors


def run(seconds: float, rounds: int) -> list[Row]:
    """Measure all four, interleaved."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pair, load = certificate(folder), compiled(folder, "load")
        bench = Bench(load, folder, compiled(folder, "load", "-DTLS", "-lssl", "-lcrypto"))
        with (
            engine(compiled(folder, "mock")) as port, ours(folder, table(port)) as own,
            ours(folder, table(port), "madang, TLS", pair) as ours_secure,
            sglang(folder, port) as peer,
            sglang(folder, port, "sglang-router, TLS", pair) as peer_secure,
        ):  # fmt: skip
            clear, secure = [own], [ours_secure]
            if peer and peer_secure:
                clear.append(peer)
                secure.append(peer_secure)
            for _ in range(rounds):
                for door in (*clear, *secure):
                    measure(bench, door, seconds)
            return rows(clear, secure)


def main() -> None:
    """Run all, or `--quick`: one short round."""
    quick = "--quick" in sys.argv
    write("gateway_tls", run(2.0, 1) if quick else run(SECONDS, ROUNDS))


if __name__ == "__main__":
    main()
