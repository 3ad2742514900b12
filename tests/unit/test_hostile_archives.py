"""No stored byte crashes or exhausts whoever reads it: it is refused by name, or taken and comes back as it was."""

import dataclasses
import json
import os
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import settings as tuned
from hypothesis import strategies as st

from tests.fuzz import archive, snapshot_v1
from tests.fuzz.framing import Opened, closed, framed, seal_fields, sealed_with
from threadkeep.errors import ArchiveCorrupt, InvalidThreadId, StoreRefused
from threadkeep.model import ArchiveMeta, Entry, Seal, ThreadRef, ThreadStat
from threadkeep.storage.archive import NO_CHAIN, read_frames, verify_content
from threadkeep.storage.cold_keys import ColdKeys
from threadkeep.storage.hot_head import Head
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.snapshot_v1 import read_v1
from threadkeep.storage.tombstones import is_tombstone
from threadkeep.strict_json import load_json

LIMITS = ReadLimits(64 * 1024 * 1024)
GOOD = {"v": 1, "id": "m1", "kind": "user", "fmt": "plain", "body": {"role": "user"}, "meta": {}}
EXAMPLES = 5_000 if os.environ.get("PROVE") else 100
SEAL = Seal("messages", "t", 7, "0a", 3, 0, {"step": 1}, NO_CHAIN)


def record(**changes):
    """A sound record with some of its fields changed; those that are `...` are left out."""
    return json.dumps({k: v for k, v in {**GOOD, **changes}.items() if v is not ...}, separators=(",", ":")).encode()


def nested(depth):
    return b'{"v":1,"id":"m1","kind":"user","fmt":"plain","body":%s%s,"meta":{}}' % (b"[" * depth, b"]" * depth)


def bodied(body):
    return b'{"v":1,"id":"m1","kind":"user","fmt":"plain","body":%s,"meta":{}}' % body


HOSTILE_RECORDS = {
    "nothing": b"",
    "a blank": b" ",
    "no JSON": b"{",
    "two values": record() + b"{}",
    "an array": b"[]",
    "a string": b'"id"',
    "null": b"null",
    "no fields": b"{}",
    "no id": record(id=...),
    "a number for an id": record(id=7),
    "an array for an id": record(id=["m1"]),
    "null for an id": record(id=None),
    "an empty id": record(id=""),
    "an id of 513 characters": record(id="x" * 513),
    "an unknown kind": record(kind="root"),
    "an array for a kind": record(kind=["user"]),
    "an object for a kind": record(kind={}),
    "a number for a format": record(fmt=1),
    "an empty format": record(fmt=""),
    "no body": record(body=...),
    "no meta": record(meta=...),
    "an array for meta": record(meta=[]),
    "null for meta": record(meta=None),
    "a field too many": record(extra=1),
    "version 2": record(v=2),
    "version true": record(v=True),
    "version 1.0": record(v=1.0),
    "version 1 as text": record(v="1"),
    "NaN": bodied(b"NaN"),
    "infinity": bodied(b"-Infinity"),
    "a number beyond all floats": bodied(b"1e999"),
    "an integer of 2,000 digits": bodied(b"9" * 2_000),
    "an integer of 5,000 digits": bodied(b"9" * 5_000),
    "101 levels": nested(101),
    "a thousand levels": nested(1_000),
    "a million levels": nested(1_000_000),
    "a million open brackets": b"[" * 1_000_000,
    "a million open objects": b'{"a":' * 1_000_000,
    "invalid UTF-8": bodied(b'"\xff\xfe"'),
    "UTF-8 that is no ASCII": bodied('"ü"'.encode()),
    "UTF-16": json.dumps(GOOD).encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + record(),
    "a carriage return": record() + b"\r",
    "a NUL": record() + b"\x00",
    "a raw control character": bodied(b'"\x01"'),
    "a tab before it": b"\t" + record(),
    "a seal among the records": b'{"$threadkeep":{"v":2}}',
    "a tombstone among the records": b'{"$threadkeep_erased":{"v":2}}',
}

STRANGE_RECORDS = {
    "a lone surrogate": record(id="\ud800", body="\udfff"),
    "a pair of surrogates": record(body="\ud83d\ude00"),
    "a line end in the id": record(id="a\nb\r\n"),
    "NUL in the id": record(id="\x00", body="\x00"),
    "an id of 512 characters": record(id="\U0001f600" * 512),
    "braces in the id": record(id='{"$threadkeep":{'),
    "100 levels": nested(100),
    "100 brackets in a string": record(body="[" * 500),
    "an integer of 1,000 digits": bodied(b"9" * 1_000),
    "minus zero": bodied(b"-0.0"),
    "tiny and huge": bodied(b"[5e-324,1.7976931348623157e308]"),
    "more than a double holds": bodied(b"9007199254740993"),
    "a key that stands twice": bodied(b'{"a":1,"a":2}'),
    "an empty key": bodied(b'{"":{"":""}}'),
    "an unknown format": record(fmt="../../etc/passwd"),
    "spaces": json.dumps(GOOD).encode(),
}


@pytest.mark.parametrize("name", HOSTILE_RECORDS)
def test_a_record_that_nobody_could_have_written_is_refused(name):
    body = framed([record(id="m0"), HOSTILE_RECORDS[name]])
    (frame,) = read_frames(body, where="key", limits=LIMITS)  # checksum, count and chain are right
    with pytest.raises(ArchiveCorrupt, match="a record is malformed"):
        verify_content(frame, where="key")
    with pytest.raises(ArchiveCorrupt, match="a record is malformed"):
        Entry.from_record(HOSTILE_RECORDS[name])
    assert not archive.check(body)


@pytest.mark.parametrize("name", STRANGE_RECORDS)
def test_a_record_that_somebody_could_have_written_comes_back(name):
    assert archive.check(framed([record(id="m0"), STRANGE_RECORDS[name]]))


def test_the_last_of_two_ids_counts_everywhere():
    twice = b'{"v":1,"id":"first","kind":"user","fmt":"plain","body":1,"meta":{},"id":"last"}'
    (frame,) = read_frames(framed([twice]), where="key", limits=LIMITS)
    again = framed([record(id="last")])
    (other,) = read_frames(again, where="key", limits=LIMITS)
    assert verify_content(frame, where="key") == verify_content(other, where="key")


HOSTILE_SEALS = {
    "no version": {"v": ...},
    "version true": {"v": True},
    "version 2.0": {"v": 2.0},
    "version as text": {"v": "2"},
    "a huge version": {"v": 10**400},
    "rev true": {"rev": True},
    "rev as text": {"rev": "7"},
    "rev a float": {"rev": 7.0},
    "rev negative": {"rev": -1},
    "rev null": {"rev": None},
    "rev of 401 digits": {"rev": 10**400},
    "rev where Lua loses units": {"rev": 2**53},
    "born negative": {"born": -1},
    "born beyond": {"born": 2**64},
    "count a float": {"count": 1.0},
    "count true": {"count": True},
    "labels a list": {"labels": [["tier", "gold"]]},
    "labels of numbers": {"labels": {"tier": 1}},
    "labels of objects": {"labels": {"tier": {}}},
    "a label too long": {"labels": {"tier": "x" * 257}},
    "33 labels": {"labels": {str(n): "" for n in range(33)}},
    "NUL in a label": {"labels": {"tier": "\x00"}},
    "a lone surrogate in a label": {"labels": {"tier": "\ud800"}},
    "state a string": {"state": "step"},
    "state a list": {"state": []},
    "state a number": {"state": 1},
    "attempt a number": {"attempt": 1},
    "attempt empty": {"attempt": ""},
    "attempt with a line end": {"attempt": "a\nb"},
    "codec null": {"codec": None},
    "codec empty": {"codec": ""},
    "codec with NUL": {"codec": "a\x00"},
    "codec endless": {"codec": "x" * 1_000},
    "forked from a number": {"forked_from": 7},
    "forked from nowhere": {"forked_from": "nowhere"},
    "forked from a raw name": {"forked_from": "a/b/c"},
    "forked from a lower case escape": {"forked_from": "messages/%2e%2e"},
    "namespace empty": {"namespace": ""},
    "namespace a list": {"namespace": ["messages"]},
    "id with NUL": {"id": "a\x00"},
    "id a lone surrogate": {"id": "\ud800"},
    "id endless": {"id": "x" * 241},
    "chain null": {"chain": None},
    "chain of another": {"chain": "0" * 64},
    "no state": {"state": ...},
}

HOSTILE_LINES = {
    "a list": b'["$threadkeep"]',
    "seal null": b'{"$threadkeep":null}',
    "seal a list": b'{"$threadkeep":[]}',
    "seal a string": b'{"$threadkeep":"v"}',
    "seal cut off": b'{"$threadkeep":{"v":2',
    "deep": b'{"$threadkeep":' + b"[" * 100_000,
    "state too deep": b'{"$threadkeep":{"v":2,"state":' + b'{"a":' * 150 + b"1" + b"}" * 150 + b"}}",
    "NaN": b'{"$threadkeep":{"v":2,"rev":NaN}}',
    "no ASCII": '{"$threadkeep":{"v":2,"id":"ü"}}'.encode(),
    "a record": record(),
    "nothing": b"",
}


def sealed(changes):
    """A frame of one sound record whose seal is sound but for these changes."""
    lines = record() + b"\n"
    fields = {**seal_fields(), "count": 1, "chain": "CHAIN", **changes}
    fields = {name: value for name, value in fields.items() if value is not ...}
    return sealed_with([lines[:-1]], json.dumps({"$threadkeep": fields}, separators=(",", ":")).encode())


@pytest.mark.parametrize("name", HOSTILE_SEALS)
def test_a_seal_that_nobody_could_have_written_is_refused(name):
    with pytest.raises(ArchiveCorrupt):
        list(read_frames(sealed(HOSTILE_SEALS[name]), where="key", limits=LIMITS))


def test_the_seal_that_those_are_made_from_is_sound():
    assert archive.check(sealed({}))


@pytest.mark.parametrize("name", HOSTILE_LINES)
def test_a_last_line_that_is_no_seal_is_refused(name):
    with pytest.raises(ArchiveCorrupt):
        list(read_frames(sealed_with([record()], HOSTILE_LINES[name]), where="key", limits=LIMITS))


@pytest.mark.parametrize("count", [0, 2, 10**15, -1])
def test_a_count_that_does_not_fit_is_refused(count):
    with pytest.raises(ArchiveCorrupt, match=r"counts|malformed"):
        list(read_frames(sealed({"count": count}), where="key", limits=LIMITS))


def test_a_refusal_repeats_nothing_of_what_was_stored():
    secret = "what the message says"
    for body in (framed([record(body=secret, kind=secret)]), sealed({"v": secret}), sealed({"attempt": [secret]})):
        with pytest.raises(ArchiveCorrupt) as refused:
            [verify_content(frame, where="key") for frame in read_frames(body, where="key", limits=LIMITS)]
        assert secret not in str(refused.value)


# --- any bytes ------------------------------------------------------------------------------------------------------

texts = st.text(st.characters(), max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.sampled_from([10**400, 2**53, -1, "m1", 1.0]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
lines_of_json = st.dictionaries(st.sampled_from([*GOOD, "extra"]), json_values).map(
    lambda changed: json.dumps({**GOOD, **changed}).encode()
)
lines = st.binary(max_size=60) | lines_of_json | st.just(record())
seals = st.dictionaries(st.sampled_from([*seal_fields(), "count"]), json_values, max_size=2)


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_as_an_archive_or_come_back(body):
    archive.check(body)
    archive.check(b"\x28\xb5\x2f\xfd" + body)


@given(st.lists(lines, max_size=4))
@tuned(max_examples=EXAMPLES)
def test_any_lines_in_a_sound_frame_are_refused_or_come_back(records):
    archive.check(framed(records))


@given(st.lists(lines_of_json, min_size=1, max_size=2), seals)
@tuned(max_examples=EXAMPLES)
def test_any_seal_that_fits_its_chain_is_refused_or_comes_back(records, changes):
    body = b"".join(line + b"\n" for line in records)
    archive.check(closed([Opened(body, json.dumps({"$threadkeep": {**_seal(body), **changes}}).encode())]))


def _seal(lines):
    return {**seal_fields(), "count": lines.count(b"\n"), "chain": ""}


v1_texts = texts | json_values.map(json.dumps)
snapshots = st.fixed_dictionaries(
    {"v": st.just(1) | json_values, "messages": st.lists(v1_texts, max_size=4) | json_values},
    optional={"state": st.dictionaries(texts, json_values, max_size=2) | json_values, "dedupIds": json_values},
)


@given(snapshots)
@tuned(max_examples=EXAMPLES)
def test_any_snapshot_of_version_1_is_refused_or_comes_back(value):
    snapshot_v1.check(json.dumps(value).encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_as_a_snapshot_or_come_back(body):
    snapshot_v1.check(body)
    snapshot_v1.check(b"\x1f\x8b\x08\x00" + body)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b'{"v":1,"messages":' + b"[" * 1_000_000,
        b'{"v":true,"messages":[]}',
        b'{"v":1,"messages":["a"],"state":{"a":NaN}}',
        b'{"v":1,"messages":["a"],"state":{"a":1e999}}',
        b'{"v":1,"messages":["a"],"state":{"a":%s}}' % (b"9" * 2_000),
        b'{"v":1,"messages":["a"],"state":%s%s}' % (b'{"a":' * 101, b"1" + b"}" * 101),
        b'{"v":1,"messages":["a"],"state":{"a":"%s"}}' % (b"x" * 5_000_000),
        b'{"v":1,"messages":["a",%s]}' % (b"9" * 10_000),
        b'{"v":1,"messages":["\xff"]}',
    ],
)
def test_a_snapshot_that_cannot_be_kept_is_refused(body):
    with pytest.raises(ArchiveCorrupt):
        read_v1(body, thread="t", where="key", limits=LIMITS)


def test_ids_of_a_snapshot_that_are_no_strings_are_made_anew():
    deep = b"[" * 900 + b"]" * 900
    body = b'{"v":1,"messages":["a","b"],"dedupIds":[%s,"b"]}' % deep
    assert len({entry.id for entry in read_v1(body, thread="t", where="key", limits=LIMITS).entries}) == 2
    assert snapshot_v1.check(body)


# --- metadata, keys, members, heads, answers ------------------------------------------------------------------------

HEADERS = ArchiveMeta(rev=7, attempt="0a", chain="c" * 64, count=1, born=3, raw_bytes=9).to_headers()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name in ("rev", "count", "born", "raw-bytes")
        for value in (
            "",
            "-1",
            "+1",
            " 1",
            "1.0",
            "1_0",
            "0x1",
            "\u0661",
            "9" * 17,
            str(2**52),
            "9" * 5_000,
            "nan",
            "1\n",
        )
    ]
    + [("attempt", value) for value in ("", "a b", "a\nb", "a\x00", "ü", "x" * 129)]
    + [("chain", value) for value in ("g" * 64, "c" * 65, "C" * 64, " ")]
    + [("format", "threadkeep-3")],
)
def test_metadata_that_nobody_could_have_written_count_as_mangled(name, value):
    assert ArchiveMeta.from_headers({**HEADERS, f"threadkeep-{name}": value}) is None


@given(st.dictionaries(st.sampled_from(sorted(HEADERS)), st.text(max_size=20)))
def test_any_metadata_are_mangled_or_come_back(changes):
    found = ArchiveMeta.from_headers({**HEADERS, **changes})
    assert found is None or ArchiveMeta.from_headers(found.to_headers()) == found


@given(st.text(max_size=40) | st.from_regex(r"[a-z%0-9.]{1,8}/[a-z%0-9./]{1,8}", fullmatch=True))
def test_any_index_member_is_refused_or_is_its_threads_own(member):
    try:
        ref = ThreadRef.from_member(member)
    except InvalidThreadId:
        return
    assert ref.member == member


SEGMENTS = st.sampled_from(
    ["", ".", "..", "a", "%2e%2e", "%2E%2E", "%00", "%ff", "conflicts", "\\", "\u0663" * 20, "0" * 20]
)


@given(st.lists(SEGMENTS | st.text(max_size=6), max_size=5).map("/".join), st.sampled_from(["", ".ndjson.zst"]))
def test_any_key_belongs_to_no_thread_or_is_its_threads_own(path, suffix):
    keys = ColdKeys("threads")
    key = f"threads/{path}{suffix}"
    ref = keys.thread_of(key)
    assert ref is None or keys.thread(ref) == key
    found = keys.revision_of(key)
    assert found is None or keys.revision(*found) == key


def test_a_revision_is_written_in_ascii_digits_alone():
    keys, zero = ColdKeys("threads"), "\u0660"
    assert keys.revision_of(f"threads/a/b/{'0' * 19}7-aa.ndjson.zst") is not None
    assert keys.revision_of(f"threads/a/b/{zero * 19}{zero}-aa.ndjson.zst") is None


HEAD_FIELDS = [field.name for field in dataclasses.fields(Head)]


@given(
    st.dictionaries(st.sampled_from(HEAD_FIELDS), st.binary(max_size=8) | st.sampled_from([b"{}", b"7"]), max_size=5)
)
def test_any_head_is_parsed_or_refused(fields):
    flat = [item for name, value in fields.items() for item in (name.encode("utf-8", "surrogatepass"), value)]
    with suppress(ArchiveCorrupt):
        Head.parse(flat)


@pytest.mark.parametrize(
    "flat",
    [
        [b"rev"],
        [b"\xff", b"1"],
        [b"rev", b"seven"],
        [b"gen", b"\xff"],
        [b"state", b"[]"],
        [b"state", b"[" * 100_000],
        [b"labels", b'{"a":1}'],
        [b"labels", b"null"],
    ],
)
def test_a_damaged_head_is_refused(flat):
    with pytest.raises(ArchiveCorrupt):
        Head.parse(flat)


@pytest.mark.parametrize("answer", ["", "[]", "null", "7", "{}", "{", '{"tier":"hot"}', "[" * 100_000, '"a"'])
def test_an_answer_that_describes_no_thread_is_refused(answer):
    from threadkeep.session.asking import _described

    with pytest.raises(StoreRefused):
        _described(ThreadRef.of("t"), answer)


def test_an_answer_of_a_newer_worker_is_understood():
    stat = ThreadStat("messages", "t", "cold", rev=7)
    told = {**dataclasses.asdict(stat), "invented_later": [1]}
    assert ThreadStat.from_json(json.dumps(told)) == stat


@pytest.mark.parametrize("text", [b"", b"{}\n", b" {}", b"{} ", b"{}{}", b"[" * 10**6, b"NaN", b"\xff", b"1e999"])
def test_what_is_no_line_of_json_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011  whatever is wrong with it
        load_json(text)


def test_no_tombstone_is_seen_in_hostile_bytes():
    assert not is_tombstone(b"\x28\xb5\x2f\xfd" + bytes(100))
    assert not is_tombstone(framed([record()]))
    assert not is_tombstone(framed([record()]) * 100)
