"""What a bucket can do, found out by doing it: some stores accept `If-Match` and ignore it."""

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

from threadkeep.errors import StoreRefused, ThreadkeepError
from threadkeep.model import ArchiveMeta, StoredObject, fresh_mark
from threadkeep.storage.ports import ColdFacts
from threadkeep.storage.s3_bucket import S3Bucket
from threadkeep.storage.s3_errors import ConditionFailed, ObjectMissing

_WRITERS: Final = 3
"""Simultaneous writers of one key, of whom one must win. SeaweedFS makes a fourth wait for a second."""


def probed(bucket: S3Bucket, key: str) -> ColdFacts:
    """Try the bucket with an object of that key, which nobody else uses; deletes it again. Never raises."""
    from botocore.exceptions import ClientError  # noqa: PLC0415  loaded with the client, at its first request

    try:
        bucket.check()
    except ThreadkeepError as error:
        reached = isinstance(error.__cause__, ClientError | ObjectMissing)
        return ColdFacts(reachable=reached, bucket=False if reached else None, problem=str(error))
    facts = ColdFacts(reachable=True, bucket=True, engine=bucket.engine)
    try:
        facts = replace(facts, versioned=_answer(bucket.versioned))
        facts = replace(facts, conditional_create=_one_creates(bucket, key))
        stored = _readable(bucket, key)
        facts = replace(facts, conditional_replace=_one_replaces(bucket, key, stored.etag))
    except ThreadkeepError as error:
        facts = replace(facts, writable=False, problem=str(error))
    return _cleaned(bucket, key, facts)


def _one_creates(bucket: S3Bucket, key: str) -> bool:
    return _winners(lambda: _write(bucket, key, create=True)) == 1


def _one_replaces(bucket: S3Bucket, key: str, etag: str) -> bool:
    return _winners(lambda: _write(bucket, key, if_match=etag)) == 1


def _readable(bucket: S3Bucket, key: str) -> StoredObject:
    found = bucket.get(key)
    if found is None:
        _write(bucket, key)  # nobody could create it conditionally; unconditionally then
        found = bucket.get(key)
    if found is None:
        raise StoreRefused(
            "S3", "GetObject", "an object just written is not there", "Is this store eventually consistent?"
        )
    return found[0]


def _winners(write: Callable[[], None]) -> int:
    with ThreadPoolExecutor(_WRITERS) as pool:
        return sum(pool.map(lambda _: _won(write), range(_WRITERS)))


def _won(write: Callable[[], None]) -> bool:
    try:
        write()
    except (ConditionFailed, ObjectMissing):
        return False
    except StoreRefused as error:
        if error.reason.startswith("NotImplemented"):
            return False
        raise
    return True


def _write(bucket: S3Bucket, key: str, *, create: bool = False, if_match: str | None = None) -> None:
    meta = ArchiveMeta(rev=0, attempt=fresh_mark(), chain="", count=0, born=0)
    bucket.put(key, secrets.token_bytes(64), meta, create=create, if_match=if_match)


def _answer(ask: Callable[[], bool]) -> bool | None:
    try:
        return ask()
    except StoreRefused:
        return None


def _cleaned(bucket: S3Bucket, key: str, facts: ColdFacts) -> ColdFacts:
    try:
        try:
            bucket.purge(key, lambda version: version.key == key)
        except StoreRefused:
            bucket.delete(key)  # no right to versions: leave a marker rather than the object
    except ThreadkeepError as error:
        return replace(facts, writable=False, problem=facts.problem or str(error))
    return facts if facts.writable is False else replace(facts, writable=True)
