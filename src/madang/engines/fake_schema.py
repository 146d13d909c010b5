"""The smallest value that a JSON schema allows: what the fake engine answers when one is given."""

from __future__ import annotations

import math
from typing import Any

DEPTH_MAX = 32


def least_value(schema: Any, root: Any = None, depth: int = 0) -> Any:
    """Return it; patterns and formats are not looked at. Raises ValueError for a bottomless one.

    >>> least_value({"type": "object", "required": ["a"], "properties": {"a": {"minimum": 2}}})
    {'a': 2}
    """
    if depth > DEPTH_MAX:
        raise ValueError("the schema is too deep")
    root = schema if root is None else root
    schema = _resolved(schema, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    match _kind(schema):
        case "object":
            parts = schema.get("properties", {})
            names = [name for name in parts if name in schema.get("required", ())]
            return {name: least_value(parts[name], root, depth + 1) for name in names}
        case "array":
            items = [schema.get("items", {})] * schema.get("minItems", 0)
            return [least_value(item, root, depth + 1) for item in items]
        case "string":
            return "a" * schema.get("minLength", 0)
        case "integer" | "number":
            return _least_number(schema)
        case "boolean":
            return False
    return None


def _resolved(schema: Any, root: Any) -> dict[str, Any]:
    """Follow references and take the first of several choices."""
    for _ in range(DEPTH_MAX):
        if not isinstance(schema, dict):
            return {}
        if "$ref" in schema:
            path, schema = schema["$ref"].removeprefix("#").split("/"), root
            for name in path[1:]:
                schema = schema[name]
        elif choices := schema.get("anyOf") or schema.get("oneOf"):
            schema = choices[0]
        else:
            return schema
    raise ValueError("a reference without an end")


def _kind(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0]
    if kind is None and "properties" in schema:
        kind = "object"
    if kind is None and {"minimum", "maximum"} & schema.keys():
        kind = "number"
    return str(kind)


def _least_number(schema: dict[str, Any]) -> int | float:
    """Return the lower bound, or the number nearest to zero, on the schema's steps."""
    step = schema.get("multipleOf", 1)
    low = schema.get("minimum", -math.inf)
    above = schema.get("exclusiveMinimum", -math.inf)
    high = min(schema.get("maximum", 0), schema.get("exclusiveMaximum", step) - step, 0)
    number: int | float = max(low, high if above == -math.inf else above + step)
    on_step: int | float = -(-number // step) * step
    return on_step if "multipleOf" in schema or schema.get("type") == "integer" else number
