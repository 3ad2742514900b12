"""Gemini's context caches: the steady front of a request is sent once, and its cache is named from then on."""

import json
import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Protocol

from threadkeep.errors import CacheWithoutName
from threadkeep.model import JsonObject
from threadkeep.session.codecs.google_genai import camel
from threadkeep.session.codecs.jsonable import to_json

STATE_KEY: Final = "context_caches"
"""Where a thread's state remembers its caches: `{digest: {"name": …, "expires": Unix seconds}}`."""

_IN_CACHE: Final = {"systemInstruction": "system_instruction", "tools": "tools", "toolConfig": "tool_config"}
_MARGIN: Final = 5
"""Seconds before its end at which a cache is no longer trusted."""


class HasState(Protocol):
    """A session, as far as a cache needs one."""

    @property
    def state(self) -> MutableMapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class CacheSplit:
    """A request in two: what a cache holds, and what is said live. Shares its values with the request.

    Attributes:
        digest: Of the model and all that the cache holds; another prefix, prompt or tool makes another.
        model: The cache is good for this one alone.
        cached: Configuration of the cache: `contents`, and the system prompt, tools and their configuration if any.
        live: The request with what is left.
    """

    digest: str
    model: str
    cached: JsonObject
    live: JsonObject

    def create(self, ttl_seconds: int) -> dict[str, Any]:
        """Keyword arguments for `client.caches.create`."""
        return {"model": self.model, "config": {**self.cached, "ttl": f"{ttl_seconds}s"}}

    def request(self, name: str) -> dict[str, Any]:
        """Keyword arguments for `generate_content`, with the cache of that name."""
        return {**self.live, "config": {**self.live["config"], "cached_content": name}}


def split_cache(request: Mapping[str, Any], split_index: int, model: str) -> CacheSplit | None:
    """Split a request behind its first `split_index` contents.

    Returns:
        None where there is nothing to cache, nothing left to say, or a cache of the app's own in use.
    """
    contents, config = request["contents"], request.get("config") or {}
    if split_index <= 0 or len(contents) <= split_index or "cachedContent" in map(camel, config):
        return None
    kept = {_IN_CACHE[camel(name)]: value for name, value in config.items() if camel(name) in _IN_CACHE}
    cached = {"contents": contents[:split_index], **kept}
    left = {name: value for name, value in config.items() if camel(name) not in _IN_CACHE}
    live = {**request, "contents": contents[split_index:], "config": left}
    return CacheSplit(_digest(model, cached), model, cached, live)


class ContextCache:
    """Makes a cache for the front of a thread's requests, and uses it until shortly before it expires.

    Its name is remembered in the thread's state, under `context_caches`, and so outlives the session. A changed prefix,
    system prompt or tool makes a new cache.

    Args:
        client: A `google.genai.Client`.
        model: The model that will be called.
        split_index: Contents that the cache holds; a request that has no more is left as it is.
        ttl_seconds: How long Gemini keeps the cache. With 5 seconds or less it is used once.
        clock: Unix seconds.

    Attributes:
        last_written: Tokens that the last request wrote into a new cache; 0 where it needed none.
    """

    def __init__(
        self,
        client: Any,
        *,
        model: str,
        split_index: int,
        ttl_seconds: int = 300,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client, self._model, self._split_index = client, model, split_index
        self._ttl, self._clock = ttl_seconds, clock
        self.last_written = 0

    def request(self, session: HasState, request: dict[str, Any]) -> dict[str, Any]:
        """The request with its front in a cache; the request itself where there is nothing to cache.

        Raises:
            CacheWithoutName: the cache that Gemini made cannot be used.
        """
        split, name, now = self._look(session, request)
        if split is None:
            return request
        if name is None:
            name = self._remember(session, split, self._client.caches.create(**split.create(self._ttl)), now)
        return split.request(name)

    async def arequest(self, session: HasState, request: dict[str, Any]) -> dict[str, Any]:
        """The same over `client.aio`."""
        split, name, now = self._look(session, request)
        if split is None:
            return request
        if name is None:
            created = await self._client.aio.caches.create(**split.create(self._ttl))
            name = self._remember(session, split, created, now)
        return split.request(name)

    def _look(self, session: HasState, request: dict[str, Any]) -> tuple[CacheSplit | None, str | None, float]:
        self.last_written = 0
        now = self._clock()
        split = split_cache(request, self._split_index, self._model)
        known = _unexpired(session, now).get(split.digest) if split else None
        return split, known["name"] if known else None, now

    def _remember(self, session: HasState, split: CacheSplit, created: Any, now: float) -> str:
        if not created.name:
            raise CacheWithoutName(self._model)
        name = str(created.name)
        self.last_written = getattr(created.usage_metadata, "total_token_count", None) or 0
        if self._ttl > _MARGIN:
            made = {split.digest: {"name": name, "expires": now + self._ttl - _MARGIN}}
            session.state[STATE_KEY] = {**_unexpired(session, now), **made}
        return name


def _unexpired(session: HasState, now: float) -> JsonObject:
    remembered = session.state.get(STATE_KEY, {})
    return {digest: cache for digest, cache in remembered.items() if cache["expires"] > now}


def _digest(model: str, cached: JsonObject) -> str:
    text = json.dumps(to_json({"model": model, **cached}), sort_keys=True)
    return sha256(text.encode()).hexdigest()
