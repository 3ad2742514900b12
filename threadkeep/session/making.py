"""What a new thread and a fork are made of, from what a caller asked for."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from threadkeep.errors import InvalidMessage
from threadkeep.model import Entry, JsonObject, fresh_id
from threadkeep.session.codecs import checked_codec, codec_for
from threadkeep.session.conversation import checked_system
from threadkeep.session.loop.calling import Calling
from threadkeep.session.loop.hooks import check_hooks, hook
from threadkeep.session.threads import Copying, Identity, timestamp


def new_identity(codec: str, system: Any, state: JsonObject | None, labels: Mapping[str, str] | None) -> Identity:
    """What a new thread is; its system prompt, if it has one, is there from the first moment.

    Raises:
        UnknownCodec, SystemPromptMissing
    """
    checked_codec(codec)
    if system is None:
        return Identity(codec, state, labels or {})
    part = checked_system(codec_for(codec), system)
    first = Entry(fresh_id(), part.kind, part.body, codec, {"ts": timestamp(), **part.meta})
    return Identity(codec, state, labels or {}, first=[first])


def copying_with(before: str | None, codec: str | None, system: Any, hooks: Any, calling: Calling) -> Copying:
    """What a fork does, with the hooks that there are; the system prompt is looked at, and appended later."""
    if system is not None:
        checked_system(codec_for(codec or "plain"), system)
    if codec is not None:
        checked_codec(codec)
    check_hooks(hooks)
    hooked = hook(hooks, "on_fork_prepare") is not None or hook(hooks, "on_fork_transform") is not None
    return Copying(before, codec, partial(_reshaped, hooks, calling) if hooked else None)


async def _reshaped(hooks: Any, calling: Calling, entries: list[Entry]) -> list[Entry]:
    """First the list as a whole, which may change its length, then each entry of what came of it."""
    prepare, transform = hook(hooks, "on_fork_prepare"), hook(hooks, "on_fork_transform")
    if prepare is not None:
        entries = _checked("on_fork_prepare", await calling.call(prepare, entries))
    if transform is None:
        return entries
    return _checked("on_fork_transform", [transform(entry, index, entries) for index, entry in enumerate(entries)])


def _checked(name: str, entries: Any) -> list[Entry]:
    """What a hook gave, if it is entries."""
    if not isinstance(entries, list | tuple):
        raise InvalidMessage(name, type(entries).__name__, "must give a list of entries")
    for place, entry in enumerate(entries):
        if not isinstance(entry, Entry):
            raise InvalidMessage(f"{name}, entry {place}", type(entry).__name__, "must give an Entry")
    return list(entries)
