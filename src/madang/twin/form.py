"""Values as JSON and back, by the types that their fields declare: a new field needs no new code.

Known are dataclasses, resources, named tuples, tuples, sets, mappings with any keys, arrays, and
what pydantic reads. The text of a value is canonical: the same bytes in whatever order its sets and
mappings were made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, TypeAdapter

from madang.resources.kinds import KINDS
from madang.resources.resource import AnyResource, Resource


class Misshapen(ValueError):
    """What was read has not the form of what it should be."""


def canonical(value: object) -> str:
    """Return the one JSON text of a value: keys in order, no spaces, no number that is none.

    >>> canonical({"b": frozenset({2, 1}), "a": (1.0, None)})
    '{"a":[1.0,null],"b":[1,2]}'
    """
    return _text(plain(value))


def _text(value: object) -> str:
    return json.dumps(
        value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
    )


def plain(value: Any) -> Any:
    """Return a value as JSON has it: objects, lists, texts and numbers."""
    if isinstance(value, Resource):
        return value.shown()
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return _plain_mapping(value)
    if isinstance(value, AbstractSet):
        return sorted(map(plain, value), key=_text)
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, Enum):
        return value.value
    return value.tolist() if hasattr(value, "tolist") else value


def _plain_mapping(value: Mapping[Any, Any]) -> Any:
    """Return an object where the keys are texts, and else pairs in the order of the keys."""
    if all(isinstance(key, str) for key in value):
        return {str(key): plain(each) for key, each in value.items()}
    if all(isinstance(each, Resource) and each.ref == key for key, each in value.items()):
        return [plain(value[key]) for key in sorted(value)]  # a resource says its own key
    return sorted(([plain(key), plain(each)] for key, each in value.items()), key=_text)


def shaped(hint: Any, body: Any) -> Any:
    """Return what JSON says as a value of a declared type. Raises `Misshapen`."""
    try:
        return _shaped(hint, body)
    except (TypeError, ValueError, LookupError) as error:
        raise Misshapen(str(error).partition("\n")[0]) from error


def _shaped(hint: Any, body: Any) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in {Union, UnionType}:
        return _one_of(hint, body)
    if _is_resource(origin or hint):
        return _resource(body)
    if is_dataclass(hint):
        return _dataclass(hint, body)
    if isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields"):
        known = get_type_hints(hint)
        return hint(*(_shaped(known[n], b) for n, b in zip(hint._fields, body, strict=True)))
    if origin is tuple:
        return _tuple(inner, body)
    if origin is frozenset:
        return frozenset(_shaped(inner[0], each) for each in body)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return dict(_pairs(inner[0], inner[1], body))
    if getattr(origin, "__name__", "") == "ndarray":
        import numpy as np  # noqa: PLC0415 - heavy, and only prices have arrays

        return np.array(body, dtype=get_args(inner[1])[0])
    return _adapter(hint).validate_python(body)


def _pairs(key: Any, each: Any, body: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(body, Mapping):
        yield from ((_shaped(key, k), _shaped(each, b)) for k, b in body.items())
    elif _is_resource(get_origin(each) or each):
        yield from ((found.ref, found) for found in map(_resource, body))
    else:
        yield from ((_shaped(key, k), _shaped(each, b)) for k, b in body)


def _tuple(inner: tuple[Any, ...], body: Any) -> tuple[Any, ...]:
    if len(inner) == 2 and inner[1] is Ellipsis:
        return tuple(_shaped(inner[0], each) for each in body)
    return tuple(_shaped(hint, each) for hint, each in zip(inner, body, strict=True))


def _one_of(union: Any, body: Any) -> Any:
    """Return the first member of a union that the body has the form of."""
    members = get_args(union)
    if body is None and NoneType in members:
        return None
    left = [hint for hint in members if hint is not NoneType]
    if isinstance(body, Mapping):
        left = [hint for hint in left if _may_be(hint, body)]
    if isinstance(body, Mapping) or len(left) == 1:
        return _shaped(left[0], body)
    return _adapter(union).validate_python(body)


def _may_be(hint: Any, body: Mapping[str, Any]) -> bool:
    if _is_resource(get_origin(hint) or hint):
        return body.get("kind") in KINDS and "spec" in body
    if not is_dataclass(hint):
        return True
    names = {each.name for each in fields(hint)}
    needed = {f.name for f in fields(hint) if f.default is MISSING and f.default_factory is MISSING}
    return needed <= body.keys() <= names


def _is_resource(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Resource)


def _resource(body: Mapping[str, Any]) -> AnyResource:
    return KINDS[body["kind"]].model_validate({k: v for k, v in body.items() if k != "kind"})


def _dataclass(hint: Any, body: Mapping[str, Any]) -> Any:
    """Return it; a field that is not there has its default, one that is not known is refused."""
    known = _hints(hint)
    return hint(**{name: _shaped(known[name], each) for name, each in body.items()})


@cache
def _hints(hint: Any) -> dict[str, Any]:
    return get_type_hints(hint)


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)
