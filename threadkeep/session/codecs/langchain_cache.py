"""A cache point at the end of a LangChain request, for providers that cache up to a marked block."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from threadkeep.session.codecs.base import Prepared


def append_cache_point(block: Mapping[str, Any], max_blocks: int = 4) -> Prepared:
    """A hook for `request(prepared=…)` that ends the last message with a cache point.

    Messages that carry one already keep it while there are at most `max_blocks` in all, the newest first. A block is
    a cache point if it has the same `type`, or, where `block` has none, the same keys. Messages are copied, never
    changed.

    Args:
        block: What the provider takes as a cache point, such as `{"cachePoint": {"type": "default"}}`.
        max_blocks: As many as the provider allows in one request; at least 1.
    """
    if max_blocks < 1:
        raise ValueError(f"max_blocks is {max_blocks}; a request with a cache point has at least 1")

    def prepared(message: Any, index: int, messages: list[Any]) -> Any:
        last = len(messages) - 1
        marked = [at for at, each in enumerate(messages) if at == last or any(_alike(it, block) for it in _list(each))]
        if index not in marked[-max_blocks:]:
            return _with(message, [each for each in _list(message) if not _alike(each, block)])
        if index == last and not any(_alike(each, block) for each in _list(message)):
            return _with(message, [*_list(message), deepcopy(dict(block))])
        return message

    return prepared


def _alike(each: Any, block: Mapping[str, Any]) -> bool:
    if not isinstance(each, dict):
        return False
    return each["type"] == block["type"] if "type" in block and "type" in each else each.keys() == block.keys()


def _list(message: Any) -> list[Any]:
    if isinstance(message.content, str):
        return [{"type": "text", "text": message.content}] if message.content else []
    return list(message.content)


def _with(message: Any, content: list[Any]) -> Any:
    return message if content == _list(message) else message.model_copy(update={"content": content})
