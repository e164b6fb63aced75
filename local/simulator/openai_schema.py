"""The subset of JSON Schema that strict structured outputs accept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_KNOWN = {
    "$defs", "$ref", "additionalProperties", "anyOf", "const", "description", "enum", "exclusiveMaximum",
    "exclusiveMinimum", "format", "items", "maxItems", "maximum", "minItems", "minimum", "multipleOf",
    "pattern", "properties", "required", "title", "type",
}  # fmt: skip
_FORMATS = {"date", "date-time", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}


def complaint(schema: Any) -> str | None:
    """What is wrong with the schema of a strict format, in OpenAI's words; None when it is fine."""
    if not isinstance(schema, dict) or schema.get("type") != "object" or "anyOf" in schema:
        kind = schema.get("type") if isinstance(schema, dict) else None
        return f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{kind}\"'."
    return next(_complaints(schema, ()), None)


def _complaints(schema: Any, where: tuple[str, ...]) -> Iterator[str]:
    if not isinstance(schema, dict):
        yield f"In context={where}, schema must be an object."
        return
    unknown = sorted(set(schema) - _KNOWN)
    if unknown:
        yield f"In context={where}, '{unknown[0]}' is not permitted."
    if "format" in schema and schema["format"] not in _FORMATS:
        yield f"In context={where}, '{schema['format']}' is not a valid format."
    if not {"type", "$ref", "anyOf", "enum", "const"} & set(schema):
        yield f"In context={where}, schema must have a 'type' key."
    if schema.get("type") == "object":
        yield from _object_complaints(schema, where)
    if schema.get("type") == "array" and "items" not in schema:
        yield f"In context={where}, array schema missing items."
    for step, part in _parts(schema):
        yield from _complaints(part, (*where, *step))


def _object_complaints(schema: dict[str, Any], where: tuple[str, ...]) -> Iterator[str]:
    if schema.get("additionalProperties") is not False:
        yield f"In context={where}, 'additionalProperties' is required to be supplied and to be false."
    missing = [key for key in schema.get("properties", {}) if key not in schema.get("required", [])]
    if missing:
        yield (
            f"In context={where}, 'required' is required to be supplied and to be an array including "
            f"every key in properties. Missing '{missing[0]}'."
        )


def _parts(schema: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for group in ("properties", "$defs"):
        for key, part in schema.get(group, {}).items():
            yield (group, key), part
    for index, part in enumerate(schema.get("anyOf", [])):
        yield ("anyOf", str(index)), part
    if "items" in schema:
        yield ("items",), schema["items"]
