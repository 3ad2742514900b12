"""Where a request to Anthropic is marked for prompt caching: behind what never changes, and at its tail."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from threadkeep.model import JsonObject

Cache = bool | Literal["5m", "1h", "auto"]
"""True is `5m`; False is off; `auto` leaves the place to Anthropic's own servers."""

MAX_BREAKPOINTS: Final = 4
"""Markers that Anthropic takes in one request."""

_TTLS: Final = ("5m", "1h")
_CACHEABLE: Final = ("text", "image", "document", "search_result", "container_upload", "compaction")
_CACHEABLE_ENDS: Final = ("tool_use", "tool_result")
_TEXT: Final = "text"


def with_cache(request: JsonObject, cache: Cache = True, max_breakpoints: int = MAX_BREAKPOINTS) -> JsonObject:
    """A request whose prefix Anthropic caches; the request itself is not changed.

    Up to two markers are set: on the last block of `messages` that takes one, and on the end of `system`, or on the
    last tool where there is no system prompt. A place that is marked already keeps its marker. Markers that live for an
    hour must precede those for five minutes, so ours take the time to live that the markers around them ask for.
    See https://platform.claude.com/docs/en/build-with-claude/prompt-caching.

    Args:
        request: `messages`, and `system` and `tools` where there are any.
        cache: How long the prefix is kept, or `auto` for the top-level form, which Bedrock does not know.
        max_breakpoints: Markers in the whole request, nested ones included, that are not to be exceeded.

    Raises:
        ValueError: `cache` is none of those.
    """
    if cache is False:
        return request
    if cache == "auto":
        return {**request, "cache_control": {"type": "ephemeral"}}
    if cache not in (True, *_TTLS):
        raise ValueError(f"cache is {cache!r}; it must be True, False, '5m', '1h' or 'auto'")
    return _marked(request, "5m" if cache is True else cache, max_breakpoints)


def is_blank_text(block: JsonObject) -> bool:
    """Whether a block is text without a visible character, which Anthropic refuses, marked or not."""
    return block.get("type") == _TEXT and not str(block.get("text") or "").strip()


@dataclass(frozen=True, slots=True)
class _Place:
    """A block of a request that might be marked: `tools[at]`, `system[at]`, or `messages[message].content[at]`."""

    section: Literal["tools", "system", "messages"]
    at: int
    block: JsonObject
    message: int = 0


def _marked(request: JsonObject, ttl: str, max_breakpoints: int) -> JsonObject:
    places = list(_places(request))
    for chosen in _candidates(places):
        place = places[chosen]
        if place.block.get("cache_control"):
            continue
        before = [known for earlier in places[: chosen + 1] for known in _ttls(earlier.block)]
        after = [known for later in places[chosen + 1 :] for known in _ttls(later.block)]
        if len(before) + len(after) >= max_breakpoints:
            break
        marker = {"type": "ephemeral", "ttl": _fitting(ttl, before, after)}
        places[chosen] = replace(place, block={**place.block, "cache_control": marker})
        request = _with_block(request, places[chosen])
    return request


def _places(request: JsonObject) -> Iterator[_Place]:
    """All blocks in the order in which Anthropic's prefix runs."""
    for at, tool in enumerate(request.get("tools", [])):
        yield _Place("tools", at, tool)
    for at, block in enumerate(_blocks(request.get("system", []))):
        yield _Place("system", at, block)
    for index, message in enumerate(request["messages"]):
        for at, block in enumerate(_blocks(message["content"])):
            yield _Place("messages", at, block, index)


def _blocks(content: Any) -> list[JsonObject]:
    return [{"type": _TEXT, "text": content}] if isinstance(content, str) else list(content)


def _candidates(places: list[_Place]) -> list[int]:
    """The tail first: where only one marker is left, it covers the rest too."""
    last = {place.section: index for index, place in enumerate(places) if _is_cacheable(place)}
    return [last[section] for section in ("messages", "system" if "system" in last else "tools") if section in last]


def _is_cacheable(place: _Place) -> bool:
    """Only kinds that are known to take a marker: one on a kind that does not, as `thinking`, fails the request."""
    kind = str(place.block.get("type"))
    known = kind in _CACHEABLE or kind.endswith(_CACHEABLE_ENDS)
    return place.section == "tools" or (known and not is_blank_text(place.block))


def _ttls(block: JsonObject) -> list[str]:
    """Times to live of the markers in a block, those in the content of a tool result or a document first."""
    source, marker = block.get("source"), block.get("cache_control")
    inner = [block.get("content"), source.get("content") if isinstance(source, dict) else None]
    nested = [each for blocks in inner if isinstance(blocks, list) for each in blocks if isinstance(each, dict)]
    own = [str(marker.get("ttl", "5m"))] if isinstance(marker, dict) else []
    return [ttl for each in nested for ttl in _ttls(each)] + own


def _fitting(ttl: str, before: list[str], after: list[str]) -> str:
    if "5m" in before:
        return "5m"
    return "1h" if "1h" in after else ttl


def _with_block(request: JsonObject, place: _Place) -> JsonObject:
    if place.section != "messages":
        return {**request, place.section: _swapped(request[place.section], place)}
    messages = list(request["messages"])
    message = messages[place.message]
    messages[place.message] = {**message, "content": _swapped(message["content"], place)}
    return {**request, "messages": messages}


def _swapped(blocks: Any, place: _Place) -> list[JsonObject]:
    swapped = _blocks(blocks)
    swapped[place.at] = place.block
    return swapped
