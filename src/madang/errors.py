"""Every error raised on purpose, as one tree.

    MadangError
    ├── Rejected            the caller must change something          HTTP 400   exit 2
    │   ├── Unauthorized    no key, or a key that is not known        HTTP 401   exit 77
    │   ├── Forbidden       known, but role or scope is too low       HTTP 403   exit 77
    │   ├── NotFound        absent, or another project's: the same    HTTP 404   exit 4
    │   └── Conflict        somebody else wrote first                 HTTP 409   exit 5
    ├── Unavailable         the world outside failed; retry allowed   HTTP 503   exit 75
    └── Corrupt             our own state is wrong; stop and look     HTTP 500   exit 70

A "no" of the domain is a value with a reason, never one of these. Each error carries a stable
dotted code; the sentence and the next step come from `messages`, in Korean and English.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from madang import forms

Value = str | int | float
"""What a sentence may be filled with."""

VALUE_LENGTH_MAX = 2000
"""Characters of what somebody sent that an error says back."""


class MadangError(Exception):
    """An error with a stable code, the thing it is about, and the values of its sentence."""

    http_status: ClassVar[int] = 500
    exit_status: ClassVar[int] = 70

    def __init__(self, code: str, subject: str = "", **values: Value) -> None:
        super().__init__(code, subject, values)
        self.code = code
        self.subject = subject[:VALUE_LENGTH_MAX]
        self.values: dict[str, Value] = {
            name: value[:VALUE_LENGTH_MAX] if isinstance(value, str) else value
            for name, value in {"subject": subject, **values}.items()
        }

    def again(self) -> Self:
        """Return the same error anew, to be raised to somebody else."""
        values = {name: value for name, value in self.values.items() if name != "subject"}
        return type(self)(self.code, self.subject, **values)

    def __str__(self) -> str:
        filled = ", ".join(f"{key}={value}" for key, value in self.values.items() if value != "")
        return f"{self.code} ({filled})" if filled else self.code


class Rejected(MadangError):
    """The caller must change something."""

    http_status = 400
    exit_status = 2


class Unauthorized(Rejected):
    """No key, or one that is not known."""

    http_status = 401
    exit_status = 77


class Forbidden(Rejected):
    """The caller is known, but its role or scope is too low."""

    http_status = 403
    exit_status = 77


class NotFound(Rejected):
    """The thing is absent, or belongs to somebody else; which of the two is not told."""

    http_status = 404
    exit_status = 4


class Conflict(Rejected):
    """The write was planned from a version that is no longer the newest."""

    http_status = 409
    exit_status = 5


class Unavailable(MadangError):
    """The world outside failed; the same call may be tried again."""

    http_status = 503
    exit_status = 75


class Corrupt(MadangError):
    """Our own state is not what we wrote; that part is stopped until somebody looks."""

    http_status = 500
    exit_status = 70


class Unfit(ValueError):
    """A value that is none of its kind: a code of `messages`, and the values of its sentence."""

    def __init__(self, code: str, **values: Value) -> None:
        super().__init__(code)
        self.code = code
        self.values = values

    def why(self) -> dict[str, Value]:
        """Return it as the cause in another sentence."""
        return {"cause": self.code, "because": self.code, **self.values}


def why(complaint: Mapping[str, Any]) -> dict[str, Value]:
    """Return a complaint of pydantic's as the cause in a sentence.

    `because` is the code that has its words in every language, with its values; `cause` is what
    pydantic says, for what has no code.
    """
    context = complaint.get("ctx", {})
    error = context.get("error")
    if isinstance(error, Unfit):
        return error.why()
    values = {
        name: value for name, value in context.items() if isinstance(value, str | int | float)
    }
    if "expected" in values:
        values["expected"] = str(values["expected"]).replace(" or ", ", ")
    code = f"value.{complaint['type']}".replace("_", "-")
    return {**values, "cause": complaint["msg"], "because": code}


_LACKS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_NO_THREAD = "can't start new thread"
"""Python's own words where memory, or the number of processes, does not allow another one."""


def is_our_lack(error: BaseException | None) -> bool:
    """Tell whether we ran out of open files, memory or threads: it says nothing about others.

    >>> is_our_lack(OSError(errno.EMFILE, "Too many open files")), is_our_lack(ConnectionError())
    (True, False)
    """
    if isinstance(error, RuntimeError):
        return str(error) == _NO_THREAD
    return isinstance(error, MemoryError) or getattr(error, "errno", None) in _LACKS


def lacking(error: BaseException | None) -> Unavailable | None:
    """Return what is said of such a lack; None for any other error."""
    if not is_our_lack(error):
        return None
    return Unavailable("control.short", cause=str(error) or type(error).__name__)


def refuse_lack(error: BaseException) -> None:
    """Raise `Unavailable` if that is what went wrong: no file of anybody's is to blame."""
    if told := lacking(error):
        raise told from error


def refuse_newer(path: object, kept: object) -> None:
    """Raise `Corrupt` if what was read from a file has a form that only a newer Madang knows."""
    if (found := forms.of(kept)) > forms.KNOWN:
        raise Corrupt("file.newer", str(path), found=found, known=forms.KNOWN)
