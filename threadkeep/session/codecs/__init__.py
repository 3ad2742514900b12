"""A codec for each provider: what is stored of its messages, and how they go back to it."""

from functools import cache
from importlib import import_module
from typing import Final

from threadkeep.errors import UnknownCodec
from threadkeep.session.codecs.base import Codec
from threadkeep.session.codecs.plain import PlainCodec

_HOMES: Final = {
    "anthropic": ("anthropic", "AnthropicCodec"),
    "google-genai": ("google_genai", "GoogleGenAICodec"),
    "langchain": ("langchain", "LangChainCodec"),
    "openai-chat": ("openai_chat", "OpenAIChatCodec"),
    "openai-responses": ("openai_responses", "OpenAIResponsesCodec"),
}
_ALWAYS: Final = ("plain", "v1")
NAMES: Final = (*_ALWAYS, *_HOMES)
"""Codecs that a thread can be made with; `v1` keeps messages of zeitlich's that no codec knows."""


@cache
def codec_for(name: str) -> Codec:
    """The codec of a thread, by the name in its head; one that is not known keeps bodies as they are."""
    if name not in _HOMES:
        return PlainCodec(name)
    module, made = _HOMES[name]
    codec: Codec = getattr(import_module(f"{__name__}.{module}"), made)()
    return codec


def checked_codec(name: str) -> str:
    """A name that a thread may be made with.

    Raises:
        UnknownCodec: lists those there are.
    """
    if name not in NAMES:
        raise UnknownCodec(name, ", ".join(NAMES))
    return name
