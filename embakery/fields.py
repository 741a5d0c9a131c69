"""Fields of a parsed JSON message, each checked once. Every function raises InvalidRequestError naming the field."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from embakery.errors import InvalidRequestError, RequestTooLargeError
from embakery.texts import TextLimits, check_text, json_type

# Four bytes a character at most: within the 2,048 bytes that DynamoDB gives a key.
MAX_ID_CHARACTERS = 256
# A result must fit an SQS message and a DynamoDB item (400 KB) beside its vector.
MAX_METADATA_BYTES = 64 * 1024
# Far below Python's recursion limit: wherever metadata is written as JSON again, the stack is another one.
MAX_METADATA_DEPTH = 32
# DynamoDB numbers and JSON readers agree up to here.
MAX_DOCUMENT_VERSION = 2**53 - 1


def parse_json(raw: object, name: str) -> Any:
    """Parse JSON as the standard has it, without NaN and Infinity."""
    if not isinstance(raw, str | bytes):
        raise InvalidRequestError(name, f"must be a string, not {json_type(raw)}")
    try:
        return json.loads(raw, parse_constant=_no_constant)
    except RecursionError as error:
        raise InvalidRequestError(name, "is nested too deeply") from error
    except ValueError as error:
        # Not chained: the decoder's error carries the whole text.
        position = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise InvalidRequestError(name, f"is not valid JSON{position}") from None


def as_object(raw: object, name: str) -> Mapping[str, Any]:
    """Return an object."""
    if not isinstance(raw, dict):
        raise InvalidRequestError(name, f"must be an object, not {json_type(raw)}")
    return raw


def as_array(raw: object, name: str, *, most: int) -> Sequence[object]:
    """Return an array of 1 to `most` items."""
    if not isinstance(raw, list):
        raise InvalidRequestError(name, f"must be an array, not {json_type(raw)}")
    if not raw:
        raise InvalidRequestError(name, "must not be empty")
    if len(raw) > most:
        raise RequestTooLargeError(name, f"{len(raw)} items, the limit is {most}")
    return raw


def as_text(raw: object, name: str, limits: TextLimits) -> str:
    """Return a text that can be embedded."""
    try:
        return check_text(raw, limits=limits)
    except InvalidRequestError as error:
        raise error.within(name) from None


def as_id(raw: object, name: str) -> str:
    """Return an id: a text of at most MAX_ID_CHARACTERS."""
    return as_text(raw, name, TextLimits(max_characters=MAX_ID_CHARACTERS))


def as_metadata(raw: object, name: str) -> Mapping[str, Any]:
    """Return metadata that can be written as JSON everywhere; none is an empty object."""
    metadata = as_object({} if raw is None else raw, name)
    if _is_deeper(metadata, MAX_METADATA_DEPTH):
        raise InvalidRequestError(name, f"is nested more than {MAX_METADATA_DEPTH} deep")
    try:
        size = len(json.dumps(metadata, ensure_ascii=False, allow_nan=False).encode())
    except ValueError:
        raise InvalidRequestError(name, "must not contain lone surrogates or numbers beyond JSON's") from None
    if size > MAX_METADATA_BYTES:
        raise RequestTooLargeError(name, f"{size} bytes, the limit is {MAX_METADATA_BYTES}")
    return metadata


def optional_id(item: Mapping[str, Any], name: str, *, parent: str = "") -> str | None:
    """Return an id, or None where there is none."""
    return None if item.get(name) is None else as_id(item[name], f"{parent}{name}")


def optional_integer(item: Mapping[str, Any], name: str, *, low: int, parent: str = "") -> int | None:
    """Return a whole number of at least `low`, or None where there is none."""
    value = item.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequestError(f"{parent}{name}", f"must be a whole number, not {json_type(value)}")
    if not low <= value <= MAX_DOCUMENT_VERSION:
        raise InvalidRequestError(f"{parent}{name}", f"must be from {low} to {MAX_DOCUMENT_VERSION}")
    return value


def version(item: Mapping[str, Any]) -> int:
    """Return the field `version`, 1 where there is none."""
    value = optional_integer(item, "version", low=0)
    return 1 if value is None else value


def choice(item: Mapping[str, Any], name: str, choices: Sequence[str], *, default: str) -> str:
    """Return one of the choices."""
    value = item.get(name, default)
    if value not in choices:
        raise InvalidRequestError(name, f"must be one of {', '.join(choices)}")
    return str(value)


def _is_deeper(value: object, depth: int) -> bool:
    """Say whether arrays and objects are nested more than `depth` deep. Level by level, not recursive."""
    level = [value]
    for _ in range(depth + 1):
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [inner for item in containers for inner in (item.values() if isinstance(item, dict) else item)]
        if not containers:
            return False
    return True


def _no_constant(_: str) -> None:
    raise ValueError("NaN and Infinity are not JSON")
