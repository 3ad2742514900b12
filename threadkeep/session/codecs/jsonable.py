"""Turns SDK objects into the JSON that goes back to their provider, without importing any SDK."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from threadkeep.errors import InvalidMessage
from threadkeep.strict_json import MAX_JSON_DEPTH


def to_json(value: Any, depth: int = 0) -> Any:
    """A copy of a value as JSON: objects as their SDK would send them, bytes in standard base64.

    Pydantic objects are dumped with what was set on them, nulls included, under their wire names and without the fields
    that an SDK keeps for itself (`__api_exclude__`), which is what the SDKs of Anthropic and OpenAI do when they send.

    Raises:
        InvalidMessage: names the type that is no JSON, or the value is nested too deep.
    """
    if depth > MAX_JSON_DEPTH:
        raise InvalidMessage("message", "nested too deep", f"at most {MAX_JSON_DEPTH} levels are kept")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(bytes(value)).decode("ascii")
    if isinstance(value, Mapping):
        return {key: to_json(inner, depth + 1) for key, inner in value.items()}
    dump = getattr(value, "model_dump", None)
    if dump is not None and not isinstance(value, type):
        own = getattr(value, "__api_exclude__", None)
        return to_json(dump(mode="json", exclude_unset=True, by_alias=True, exclude=own, warnings=False), depth)
    if isinstance(value, Sequence):
        return [to_json(inner, depth + 1) for inner in value]
    raise InvalidMessage("message", type(value).__name__, "is not JSON and no object of a provider's SDK")
