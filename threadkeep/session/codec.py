"""Codecs turn what an app has in hand into entries. Pure: no I/O, no import of any provider's SDK."""

from typing import Any, Final, Protocol

from threadkeep.model import Kind

_KIND_OF_ROLE: Final[dict[str, Kind]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
}


class Codec(Protocol):
    """How one provider's messages are kept; `name` is what entries carry as their `fmt`."""

    name: str

    def encode(self, message: Any) -> list[tuple[Kind, Any]]:
        """The kind and the JSON body of each entry that a message makes."""
        ...


class PlainCodec:
    """Any JSON value is kept as it is; the `role` of an object says who speaks."""

    def __init__(self, name: str = "plain") -> None:
        self.name = name

    def encode(self, message: Any) -> list[tuple[Kind, Any]]:
        role = message.get("role") if isinstance(message, dict) else None
        return [(_KIND_OF_ROLE.get(role, "user") if isinstance(role, str) else "user", message)]


def codec_for(name: str) -> Codec:
    """The codec of a thread, by the name in its head; one that is not known keeps bodies as they are."""
    return PlainCodec(name)
