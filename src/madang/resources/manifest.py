"""The brief YAML shape that people write, read into specs; every mistake is named with its fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, get_args

from pydantic import TypeAdapter, ValidationError

from madang.errors import Rejected, Unfit, why
from madang.resources.kinds import KINDS, WRITABLE
from madang.resources.resource import AnyResource, Frozen, Name, ProjectName, Ref
from madang.resources.scale import NUMBER, RANGE
from madang.resources.service import NOT_YET, NotYet
from madang.resources.tenancy import SITE

_NAME = TypeAdapter(Name)
_PROJECT = TypeAdapter(ProjectName)
SERVICE_NAME_BYTES_MAX = 40
"""Its replicas add `-REVISION-SERIAL`, and must still fit into a name: numbers up to 10^10."""
MANIFESTS_MAX = 1000
"""How many objects one `apply` may bring."""


class Manifest(NamedTuple):
    """One object as somebody wants it."""

    kind: str
    ref: Ref
    spec: Frozen

    @property
    def subject(self) -> str:
        """kind/name, as messages say it."""
        return f"{self.kind}/{self.ref.name}"


@contextmanager
def numbered(document: int) -> Iterator[None]:
    """Say in a refusal which document it is about, counted from 1."""
    try:
        yield
    except Rejected as error:
        error.values["document"] = document
        raise


def nearest(word: str, known: list[str] | tuple[str, ...]) -> str:
    """Return the known word most like this one, or the empty string.

    >>> nearest("scal", ["model", "scale"])
    'scale'
    """
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.5)), "")


def read(document: object, project: str) -> Manifest:
    """Read one document; `project` is where it lives unless it says so itself.

    Raises `Rejected` with code `manifest.*`.
    """
    if not isinstance(document, dict):
        raise Rejected("manifest.not-an-object", got=type(document).__name__)
    body = {str(key): value for key, value in document.items()}
    kind = str(body.pop("kind", ""))
    if kind == "secret":
        raise Rejected("manifest.secret", str(body.get("name", "NAME"))[:63])
    if kind not in WRITABLE:
        raise Rejected(
            "manifest.unknown-kind", kind=kind, nearest=nearest(kind, WRITABLE) or WRITABLE[-1]
        )
    model = KINDS[kind]
    written_name = body.pop("name", None)
    subject = f"{kind}/{written_name}"
    home = ""
    if model.scoped:
        home = _valid(_PROJECT, body.pop("project", project), "project", subject)
    if kind in _HOMES:
        home, written_name = _HOMES[kind](written_name, home, subject)
    name = _valid(_NAME, written_name, "name", subject)
    if kind == "service" and len(name.encode()) > SERVICE_NAME_BYTES_MAX:
        raise _unfit(subject, Unfit("value.service-name-long", limit=SERVICE_NAME_BYTES_MAX))
    ref = Ref(home, name)
    if model.scoped and not home:
        raise Rejected("manifest.no-project", subject)
    return Manifest(kind, ref, _spec(model.model_fields["spec"].annotation, body, subject))


def written(resource: AnyResource) -> dict[str, Any]:
    """Return the document that `read` makes the same kind, name and spec of, as brief as it can be.

    What is as it would be anyway is left out; keys come in one order, so that a change shows as
    the lines that changed.
    """
    spec = resource.spec.model_dump(mode="json", exclude_defaults=True)
    place = {"name": resource.name}
    if resource.kind in {"project", "quota"}:
        place = {"name": resource.project}
    elif resource.kind == "user":
        place = {"name": f"{resource.project}/{resource.name}"}
    elif resource.scoped and resource.kind != "organization":
        place["project"] = resource.project
    return {"kind": resource.kind, **place, **_ordered(spec)}


def _ordered(value: Any) -> Any:
    return {k: dict(sorted(v.items())) if isinstance(v, dict) else v for k, v in value.items()}


def _organization(written: object, _home: str, subject: str) -> tuple[str, object]:
    """Return where an organization is stored: inside itself."""
    name: str = _valid(_NAME, written, "name", subject)
    if name == SITE:
        raise _unfit(subject, Unfit("value.name-site", site=SITE))
    return name, name


def _project(written: object, _home: str, subject: str) -> tuple[str, object]:
    """Split a project's written name: it is stored under its full name, inside itself."""
    full: str = _valid(_PROJECT, written, "name", subject)
    if not full:
        raise _unfit(subject, Unfit("value.project"))
    return full, full.partition("/")[2]


def _user(written: object, home: str, subject: str) -> tuple[str, object]:
    """Split a user's written name, `organization/name`, or take the organization at hand."""
    organization, slash, name = written.partition("/") if isinstance(written, str) else ("", "", "")
    if not slash:
        return home.partition("/")[0], written
    return _valid(_NAME, organization, "name", subject), name


def _place(written: object, home: str, subject: str) -> tuple[str, object]:
    """Return where a quota is stored: in the place whose it is."""
    is_project = isinstance(written, str) and "/" in written
    return (_project if is_project else _organization)(written, home, subject)


_HOMES = {"organization": _organization, "project": _project, "user": _user, "quota": _place}
"""Kinds that live elsewhere than in the project at hand: (written name, that project, subject)."""


def _spec(model: Any, body: dict[str, Any], subject: str) -> Frozen:
    for key in body:
        if key in NOT_YET and key not in model.model_fields:
            raise Rejected("manifest.not-yet", subject, key=key, cause="")
    try:
        spec: Frozen = model.model_validate(body)
    except ValidationError as error:
        raise _named(error, model, subject) from error
    return spec


def _valid(adapter: TypeAdapter[str], value: object, key: str, subject: str) -> str:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise Rejected("manifest.value", subject, key=key, **why(error.errors()[0])) from error


def _unfit(subject: str, unfit: Unfit) -> Rejected:
    return Rejected("manifest.value", subject, key="name", **unfit.why())


def _named(error: ValidationError, model: Any, subject: str) -> Rejected:
    """Turn one complaint into a sentence about one key; a misspelt key before a missing one."""
    complaints = error.errors()
    first = next((c for c in complaints if c["type"] == "extra_forbidden"), complaints[0])
    key = ".".join(str(part) for part in first["loc"] if part not in {NUMBER, RANGE})
    if first["type"] == "extra_forbidden":
        known = keys_beside(model, first["loc"][:-1])
        return Rejected(
            "manifest.unknown-key", subject, key=key,
            nearest=nearest(str(first["loc"][-1]), known), known=", ".join(known),
        )  # fmt: skip
    if first["type"] == "missing":
        return Rejected("manifest.missing-key", subject, key=key)
    if isinstance(first.get("ctx", {}).get("error"), NotYet):
        return Rejected("manifest.not-yet", subject, key=key, **why(first))
    return Rejected("manifest.value", subject, key=key, **why(first))


def keys_beside(model: Any, path: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are known where this path leads, through lists and mappings too."""
    found = model
    for part in path:
        if hasattr(found, "model_fields"):
            field = found.model_fields.get(str(part))
            found = field.annotation if field else None
        else:  # an element of a list or a mapping: a path leads to its value
            found = next((a for a in get_args(found)[::-1] if a is not Ellipsis), None)
    return sorted(getattr(found, "model_fields", ()))
