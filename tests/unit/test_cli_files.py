"""What `import` makes of a file."""

import gzip
import json

import pytest

from threadkeep.cli.files import FileRefused, parse
from threadkeep.errors import ArchiveCorrupt
from threadkeep.model import Entry, Seal
from threadkeep.storage.archive import NO_CHAIN, seal_tail
from threadkeep.storage.limits import ReadLimits

SEAL = Seal("acme", "t", 5, "ab", 1, 0, {"step": 2}, NO_CHAIN, codec="anthropic", labels={"a": "b"})


def read(body, where="f.jsonl"):
    return parse(body, where=where, limits=ReadLimits(1 << 20))


def entry(n, **more):
    return Entry(f"m{n}", "user", {"n": n}, **more)


def test_plain_messages_get_ids_and_kinds_of_their_own():
    body = b'{"role":"system","content":"s"}\n\n{"role":"assistant","content":"a"}\n"just text"'
    parsed = read(body)
    assert [one.kind for one in parsed.entries] == ["system", "assistant", "user"]
    assert [one.body for one in parsed.entries][2] == "just text"
    assert len({one.id for one in parsed.entries}) == 3
    assert parsed.codec == "plain"


def test_exported_entries_come_back_as_they_were():
    entries = [entry(1, fmt="anthropic", meta={"ts": "x"}), entry(2, fmt="anthropic")]
    parsed = read(b"".join(one.to_record() + b"\n" for one in entries))
    assert parsed.entries == entries
    assert parsed.codec == "anthropic"


def test_an_archive_brings_its_address_its_state_and_its_labels():
    records = [entry(1, fmt="anthropic").to_record()]
    body = seal_tail(records, SEAL, base_count=0, base_chain=NO_CHAIN).body
    parsed = read(body)
    assert (parsed.namespace, parsed.thread_id, parsed.codec) == ("acme", "t", "anthropic")
    assert (parsed.state, parsed.labels) == ({"step": 2}, {"a": "b"})
    assert [one.id for one in parsed.entries] == ["m1"]


def test_the_lines_that_zstdcat_shows_are_the_same_thread():
    seal = {"$threadkeep": {"v": 2, "namespace": "acme", "id": "t", "state": {"s": 1}, "labels": {"a": "b"}}}
    parsed = read(entry(1).to_record() + b"\n" + json.dumps(seal).encode() + b"\n")
    assert (parsed.namespace, parsed.thread_id, parsed.state, parsed.labels) == ("acme", "t", {"s": 1}, {"a": "b"})
    assert len(parsed.entries) == 1


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_version_1_snapshot_is_known_by_its_content(pack):
    snapshot = {"v": 1, "messages": ['{"id":"a"}', "not json"], "state": {"s": 1}, "dedupIds": ["a", "b"]}
    parsed = read(pack(json.dumps(snapshot, indent=1).encode()))
    assert [one.body for one in parsed.entries] == ['{"id":"a"}', "not json"]
    assert (parsed.codec, parsed.state) == ("v1", {"s": 1})


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "f.jsonl: it holds no messages"),
        (b'{"a":1}\n{"b":\n', "f.jsonl, line 2: it is no JSON: Expecting value at column 6"),
        (b'{"a":1}\n\xff\n', "line 2: it is no UTF-8"),
        (entry(1).to_record() + b"\n\n" + entry(1).to_record(), "line 3: its id stands in line 1 already"),
        (entry(1).to_record() + b"\n" + entry(2, fmt="openai").to_record(), "line 2: it is 'openai' where"),
        (b'{"v":9,"id":"a","kind":"user","fmt":"plain","body":1}', "line 1: its version 9 is not the 1"),
        (b'{"v":1,"id":7,"kind":"user","fmt":"plain","body":1}', "line 1: its id is no string"),
    ],
)
def test_what_cannot_become_a_thread_is_refused_with_its_line(body, problem):
    with pytest.raises(FileRefused, match="Nothing was imported") as caught:
        read(body)
    assert problem in str(caught.value)


def test_a_torn_archive_is_refused():
    body = seal_tail([entry(1).to_record()], SEAL, base_count=0, base_chain=NO_CHAIN).body
    with pytest.raises(ArchiveCorrupt, match="cut short"):
        read(body[:-3])
