"""JSON that comes back exactly as it went in, and that every store and reader can hold: the rest is refused by name."""

import json
import math
from typing import Any, Final

from threadkeep.errors import InvalidMessage

MAX_JSON_DEPTH: Final = 100
MAX_INTEGER_BITS: Final = 4096

_MAX_DIGITS: Final = len(str(2**MAX_INTEGER_BITS)) + 1
_FEWEST_DIGITS: Final = _MAX_DIGITS - 2
"""Integers of fewer digits are never too large."""
_DIGITS: Final = frozenset(b"0123456789")


def check_json(value: Any, where: str, depth: int = 0) -> None:
    """Refuse what JSON cannot carry unchanged.

    Raises:
        InvalidMessage: names the path of the first value that is NaN, infinite, not JSON, or nested too deep.
    """
    if value is None or isinstance(value, bool | str):
        return
    if isinstance(value, int | float):
        _check_number(value, where)
        return
    if depth >= MAX_JSON_DEPTH:
        raise InvalidMessage(where, "nested too deep", f"at most {MAX_JSON_DEPTH} levels are kept")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise InvalidMessage(where, f"key {ascii(key)[:40]}", "object keys must be strings")
            check_json(inner, f"{where}.{ascii(key)[1:-1][:40]}", depth + 1)
        return
    if isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            check_json(inner, f"{where}[{index}]", depth + 1)
        return
    raise InvalidMessage(
        where, type(value).__name__, "is not JSON; convert it first (for an SDK object: its model_dump)"
    )


def _check_number(value: float, where: str) -> None:
    if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
        raise InvalidMessage(where, f"an integer of {value.bit_length():,} bits", "is too large; send a string")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidMessage(where, repr(value), "is not JSON; send null or a string")


def dump_json(value: Any) -> bytes:
    """Compact ASCII JSON in insertion order: ASCII keeps lone surrogates, the order keeps bytes stable."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")


def load_json(text: bytes, *, wrapped: int = 0) -> Any:
    """A value that `dump_json` may have written; `wrapped` are the levels that surround what was checked.

    Raises:
        ValueError: it is no line of ASCII JSON, or holds what `check_json` refuses.
    """
    try:
        value = _DECODER.decode(text.decode("ascii"))
    except RecursionError:
        raise ValueError("nested too deep") from None
    if text[:1].isspace() or text[-1:].isspace():
        raise ValueError("it is more than one line")
    if text.count(b"[") + text.count(b"{") > MAX_JSON_DEPTH:  # else it cannot be nested too deep
        check_json(value, "value", -wrapped)
    return value


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError("an integer is too large")
    value = int(digits)
    if len(digits) >= _FEWEST_DIGITS:
        _check_number(value, "value")
    return value


def _float(digits: str) -> float:
    value = float(digits)
    _check_number(value, "value")
    return value


_DECODER: Final = json.JSONDecoder(parse_constant=_refused, parse_int=_integer, parse_float=_float)


def may_hold_large_integer(text: bytes) -> bool:
    """Whether JSON may hold an integer that is too large: its digits would fill one of the pieces looked at here."""
    if len(text) < _FEWEST_DIGITS:
        return False
    piece = _FEWEST_DIGITS // 2
    begun = (piece * number for number, first in enumerate(text[::piece]) if first in _DIGITS)
    return any(text[at : at + piece].isdigit() for at in begun)
