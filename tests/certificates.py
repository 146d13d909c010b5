"""Certificates for tests, made here: self-signed, of either kind of key, good until any moment.

After X.509 (RFC 5280), SEC 1 for keys of the curve P-256, and PKCS #1 for RSA. Not for any other
use: nothing here is hidden from whoever measures time.
"""

from __future__ import annotations

import secrets
import time
from base64 import encodebytes
from functools import cache
from hashlib import sha256
from math import gcd, prod
from pathlib import Path

P = 2**256 - 2**224 + 2**192 + 2**96 - 1
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
"""The curve P-256: its field, the order of its generator, and that (SEC 2, 2.4.2)."""
SMALL = prod(n for n in range(3, 2000, 2) if all(n % d for d in range(3, n, 2)))
DAY_S = 86400
Point = tuple[int, int] | None


def _der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8 or 1)
    return bytes([tag]) + (size if len(body) < 128 else bytes([128 + len(size)]) + size) + body


def _number(value: int) -> bytes:
    return _der(2, value.to_bytes(value.bit_length() // 8 + 1))


def _row(*parts: bytes) -> bytes:
    return _der(0x30, *parts)


def _bits(data: bytes) -> bytes:
    return _der(3, b"\0", data)


CURVE = bytes.fromhex("06082a8648ce3d030107")
IS_EC = _row(bytes.fromhex("06072a8648ce3d0201"), CURVE)
BY_EC = _row(bytes.fromhex("06082a8648ce3d040302"))
IS_RSA = _row(bytes.fromhex("06092a864886f70d010101"), b"\5\0")
BY_RSA = _row(bytes.fromhex("06092a864886f70d01010b"), b"\5\0")
SHA256 = bytes.fromhex("3031300d060960864801650304020105000420")
NAME, ALSO, BASIC = (bytes.fromhex(each) for each in ("0603550403", "0603551d11", "0603551d13"))


def _sum(a: Point, b: Point) -> Point:
    if a is None or b is None:
        return a or b
    if a[0] == b[0] and (a[1] + b[1]) % P == 0:
        return None
    if a == b:
        slope = (3 * a[0] * a[0] - 3) * pow(2 * a[1], -1, P)
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, P)
    x = (slope * slope - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P


def _times(factor: int, point: Point) -> tuple[int, int]:
    total: Point = None
    while factor:
        total = _sum(total, point) if factor & 1 else total
        point, factor = _sum(point, point), factor >> 1
    assert total
    return total


class OfCurve:
    """A key of P-256."""

    label, signed_by = "EC", BY_EC

    def __init__(self) -> None:
        self._secret = secrets.randbelow(N - 1) + 1
        x, y = _times(self._secret, G)
        self._point = _bits(b"\4" + x.to_bytes(32) + y.to_bytes(32))
        self.public = _row(IS_EC, self._point)
        told = _der(4, self._secret.to_bytes(32)), _der(0xA0, CURVE), _der(0xA1, self._point)
        self.private = _row(_number(1), *told)

    def sign(self, data: bytes) -> bytes:
        """Sign by ECDSA with SHA-256."""
        once = secrets.randbelow(N - 1) + 1
        r = _times(once, G)[0] % N
        digest = int.from_bytes(sha256(data).digest())
        return _row(_number(r), _number((digest + r * self._secret) * pow(once, -1, N) % N))


def _prime(bits: int) -> int:
    while True:
        n = secrets.randbits(bits) | (3 << (bits - 2)) | 1
        if gcd(SMALL, n) == 1 and pow(2, n - 1, n) == 1:
            return n


@cache
def _primes() -> tuple[int, int]:
    """Return two, the same ones for every key of one run of tests: they take a while to find."""
    return _prime(1024), _prime(1024)


class OfRsa:
    """A key of RSA, 2048 bits."""

    label, signed_by = "RSA", BY_RSA

    def __init__(self) -> None:
        e, (p, q) = 65537, _primes()
        self._n, self._d = p * q, pow(e, -1, (p - 1) * (q - 1))
        self.public = _row(IS_RSA, _bits(_row(_number(self._n), _number(e))))
        rest = self._d % (p - 1), self._d % (q - 1), pow(q, -1, p)
        self.private = _row(*map(_number, (0, self._n, e, self._d, p, q, *rest)))

    def sign(self, data: bytes) -> bytes:
        """Sign by PKCS #1 v1.5 with SHA-256."""
        told = SHA256 + sha256(data).digest()
        padded = b"\0\1" + b"\xff" * (253 - len(told)) + b"\0" + told
        return pow(int.from_bytes(padded), self._d, self._n).to_bytes(256)


KINDS = {"ec": OfCurve, "rsa": OfRsa}


def _time(at: float) -> bytes:
    return _der(0x18, time.strftime("%Y%m%d%H%M%SZ", time.gmtime(at)).encode())


def _pem(label: str, data: bytes) -> str:
    return f"-----BEGIN {label}-----\n{encodebytes(data).decode()}-----END {label}-----\n"


def made(kind: str, days: float = 90.0) -> tuple[bytes, str, str]:
    """Return a certificate for localhost and 127.0.0.1, and in PEM that and its key."""
    key, now = KINDS[kind](), time.time()
    name = _row(_der(0x31, _row(NAME, _der(12, b"localhost"))))
    alts = _row(_der(0x82, b"localhost"), _der(0x87, bytes([127, 0, 0, 1])))
    basic = _row(BASIC, b"\1\1\xff", _der(4, _row(b"\1\1\xff")))
    begin = min(now, now + days * DAY_S) - DAY_S
    body = _row(
        _der(0xA0, _number(2)),
        _number(secrets.randbits(100)),
        key.signed_by,
        name,
        _row(_time(begin), _time(now + days * DAY_S)),
        name,
        key.public,
        _der(0xA3, _row(basic, _row(ALSO, _der(4, alts)))),
    )
    whole = _row(body, key.signed_by, _bits(key.sign(body)))
    return whole, _pem("CERTIFICATE", whole), _pem(f"{key.label} PRIVATE KEY", key.private)


class Files:
    """A certificate and its key on the disk, put there as a tool would that renews them."""

    def __init__(self, folder: Path) -> None:
        self.cert, self.key = folder / "gateway.pem", folder / "gateway.key"

    def put(self, kind: str, days: float = 90.0) -> bytes:
        """Put a fresh pair there; return the certificate as clients see it."""
        shown, cert, key = made(kind, days)
        for path, text in ((self.cert, cert), (self.key, key)):
            fresh = path.with_suffix(".fresh")
            fresh.write_text(text)
            fresh.chmod(0o600)
            fresh.replace(path)
        return shown
