"""What an erasure removed, store by store: kept as JSON in Redis, and as an event of the catalog. Pure."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self


@dataclass(frozen=True, slots=True)
class FromRedis:
    """What Redis held.

    Attributes:
        thread: Whether the thread was there, hot or as a cached copy.
        rev: Its newest revision.
        messages: How many messages it had.
    """

    thread: bool = False
    rev: int = 0
    messages: int = 0


@dataclass(frozen=True, slots=True)
class FromBucket:
    """What the bucket held.

    Attributes:
        object: Whether there was an archive.
        versions: Older versions, delete markers and superseded revisions; where the bucket keeps versions, the last
            archive is one of them.
        v1: Objects of version 1, with their versions.
        conflicts: Copies under `conflicts/`, with their versions.
        tombstone: Key of the object that stays.
    """

    object: bool = False
    versions: int = 0
    v1: int = 0
    conflicts: int = 0
    tombstone: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one request to erase a thread.

    Attributes:
        outcome: `erased`, or `spared` where the thread was born after the request.
        request: The request's id.
        rev: Revision of the tombstone: what is created under this id afterwards is born after it.
        catalog: Whether the thread's row is stripped and its events are emptied; if not, the sweep sees to it.
        forks: Threads that were forked from this one and live on, as far as the catalog knew; addresses as people read
            them.
    """

    outcome: Literal["erased", "spared"]
    request: str
    rev: int = 0
    redis: FromRedis = FromRedis()
    s3: FromBucket = FromBucket()
    catalog: bool = False
    forks: list[str] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """As a JSON object of numbers, keys and addresses."""
        return asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.facts())

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls.from_facts(json.loads(text))

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """From what any release wrote: what is missing is unknown, what is not known here is left out."""
        redis = FromRedis(**_known(FromRedis, facts.get("redis", {})))
        # An early receipt told `versions` and `conflicts` beside the rest.
        s3 = FromBucket(**_known(FromBucket, {**facts, **facts.get("s3", {})}))
        return cls(**{**_known(cls, facts), "redis": redis, "s3": s3})


def _known(kind: Any, facts: Mapping[str, Any]) -> dict[str, Any]:
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in facts.items() if name in names}
