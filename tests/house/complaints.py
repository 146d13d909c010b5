"""Every type of complaint that pydantic can have about what people send, read from its schemas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic_core import core_schema

from madang.api.jobs import NewCode, NewSecret
from madang.api.routes import Apply, NewKey, NewModel
from madang.control.backups import Outcome
from madang.resources.fleet import Fleet
from madang.resources.kinds import KINDS, WRITABLE

SENT = (
    Apply, NewModel, NewKey, NewCode, NewSecret, Outcome, Fleet,
    *(KINDS[kind].model_fields["spec"].annotation for kind in WRITABLE),
)  # fmt: skip
"""What people send: bodies, fleet files, and the specs in documents."""

OF_SCHEMAS = {
    "model": {"model_type", "model_attributes_type"},
    "model-fields": {"extra_forbidden", "missing"},
    "str": {"string_type", "string_unicode"},
    "int": {"int_type", "int_parsing", "int_parsing_size", "int_from_float"},
    "float": {"float_type", "float_parsing"},
    "bool": {"bool_type"},
    "list": {"list_type"},
    "tuple": {"tuple_type"},
    "dict": {"dict_type"},
    "enum": {"enum"},
    "literal": {"literal_error"},
}
SILENT = {
    "any", "default", "nullable", "no-info", "model-field", "function-after", "function-before",
    "definitions", "definition-ref", "union", "tagged-union",
}  # fmt: skip
"""Schemas that complain of nothing themselves; what our own validators say is `Unfit`, and of
what a union takes one of them has made sure before."""
BEHIND_VALIDATORS = {"too_short", "too_long", "greater_than_equal", "less_than_equal"}
"""A bound behind a validator of ours is a function, of which the schema does not tell."""
OF_BOUNDS = {
    "ge": "greater_than_equal", "gt": "greater_than", "le": "less_than_equal",
    "pattern": "string_pattern_mismatch",
}  # fmt: skip
OF_LENGTHS = {
    ("str", "min_length"): "string_too_short", ("str", "max_length"): "string_too_long",
    ("dict", "max_length"): "too_long", ("list", "max_length"): "too_long",
    ("tuple", "max_length"): "too_long", ("tuple", "min_length"): "too_short",
}  # fmt: skip
LIMITS = {*OF_BOUNDS, "lt", "multiple_of", "min_length", "max_length"}
OF_QUERIES = {
    "missing", "enum", "greater_than_equal", "less_than_equal", "int_parsing", "float_parsing",
    "finite_number", "int_parsing_size", "json_invalid",
}  # fmt: skip
"""Beside bodies: what a parameter or the body as a whole can be."""


def schemas(found: Any) -> Iterator[dict[str, Any]]:
    """Yield every schema in a schema."""
    if isinstance(found, dict):
        if isinstance(found.get("type"), str):
            yield found
        for inner in found.values():
            yield from schemas(inner)
    elif isinstance(found, list | tuple):
        for inner in found:
            yield from schemas(inner)


def complaints() -> set[str]:
    """Return the types; a schema that is not known here ends the test."""
    types = OF_QUERIES | BEHIND_VALIDATORS
    for model in SENT:
        for each in schemas(model.__pydantic_core_schema__):
            kind = each["type"]
            assert kind in SILENT or kind in OF_SCHEMAS, f"{model}: what does {kind} complain of?"
            types |= OF_SCHEMAS.get(kind, set())
            for limit in LIMITS & set(each) if kind in OF_SCHEMAS else ():
                types.add(OF_BOUNDS.get(limit) or OF_LENGTHS[kind, limit])
    assert types <= set(get_args(core_schema.ErrorType))
    return types
