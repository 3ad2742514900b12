"""Writes tests/fuzz/corpus/ anew: small archives and snapshots, sound and hostile, from our own writers.

python -m tests.fuzz.make_corpus
"""

import gzip
import json
from pathlib import Path

from tests.fuzz.framing import closed, framed, opened, sealed_with
from threadkeep.model import Entry, Seal, ThreadRef
from threadkeep.storage.archive import NO_CHAIN, seal_tail
from threadkeep.storage.snapshot_v1 import write_v1
from threadkeep.storage.tombstones import tombstone

CORPUS = Path(__file__).parent / "corpus"
REF = ThreadRef.of("t")
SEAL = Seal("messages", "t", 7, "0a", 3, 0, {"step": 1, "deep": [[{"a": None}]]}, NO_CHAIN, labels={"tier": "gold"})
TALK = [
    Entry("m1", "user", {"role": "user", "content": "Grüße \U0001f30d \ud800"}, "plain", {"ts": "2026-01-31"}),
    Entry("m 2\n\"'\\", "assistant", [1, -2.5e-7, 10**30, True, None], "plain", {}),
    Entry("m3", "tool", "text", "plain", {}),
]


def archives() -> dict[str, bytes]:
    """Archives by name."""
    records = [entry.to_record() for entry in TALK]
    first = seal_tail(records[:2], SEAL, base_count=0, base_chain=NO_CHAIN)
    second = seal_tail(records[2:], SEAL, base_count=2, base_chain=first.seal.chain)
    return {
        "one": seal_tail(records, SEAL, base_count=0, base_chain=NO_CHAIN).body,
        "two": first.body + second.body,
        "indexed": closed(opened(framed(records, v=3))),
        "index-missing": framed(records, v=3),
        "state-alone": seal_tail([], SEAL, base_count=0, base_chain=NO_CHAIN).body,
        "tombstone": tombstone(REF, rev=9, request="c41d"),
        "other-thread": framed(records, id="other"),
        "fork": framed(records, forked_from="messages/t%2F1"),
        "no-record": framed([b'{"v":1,"id":"m1"}']),
        "deep": framed([records[1].replace(b'"meta":{}', b'"meta":{"a":' + b"[" * 200 + b"]" * 200 + b"}")]),
        "bare-seal": sealed_with(records, b'{"$threadkeep":{"v":2,"chain":"CHAIN","count":COUNT}}'),
    }


def snapshots() -> dict[str, bytes]:
    """Snapshots of version 1 by name."""
    anthropic = {"id": "a1", "message": {"role": "user", "content": [{"type": "text", "text": "hello"}]}}
    google = {"id": "g1", "content": {"role": "model", "parts": [{"text": "hello"}]}}
    langchain = {"type": "ai", "data": {"id": "l1", "content": "hello", "tool_calls": []}}
    slices = {"tasks": [["t1", {"name": "look"}]], "custom": {"step": 1}}
    return {
        "anthropic": _snapshot([anthropic], slices),
        "google": _snapshot([google], None),
        "langchain": _snapshot([langchain], slices),
        "mixed": _snapshot([anthropic, google, "no JSON at all {", 7], {"any": "state"}, ["d1", "", "d1", "d4"]),
        "gzipped": write_v1(TALK, {"step": 1}, codec="plain"),
        "plain": write_v1(TALK, None, codec="plain", compress=False),
        "gzipped-anthropic": gzip.compress(_snapshot([{**anthropic, "isSystem": True}], slices), mtime=0),
    }


def _snapshot(messages: list[object], state: object, dedup_ids: list[str] | None = None) -> bytes:
    texts = [message if isinstance(message, str) else json.dumps(message) for message in messages]
    return json.dumps({"v": 1, "messages": texts, "state": state, "dedupIds": dedup_ids or []}).encode()


def main() -> None:
    """Write the corpus."""
    for target, made in (("archive", archives()), ("snapshot_v1", snapshots())):
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, body in made.items():
            (folder / name).write_bytes(body)


if __name__ == "__main__":
    main()
