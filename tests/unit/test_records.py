"""Records are read the quick way or the strict one, and it makes no difference which."""

import gc
import json
import os

import pytest
from hypothesis import given
from hypothesis import settings as tuned
from hypothesis import strategies as st

from tests.unit.test_hostile_archives import EXAMPLES, HOSTILE_RECORDS, STRANGE_RECORDS, lines_of_json
from threadkeep import model
from threadkeep.errors import ArchiveCorrupt, InvalidMessage
from threadkeep.model import Entry, Seal, ThreadRef, checked_record, entries_in, entries_in_text
from threadkeep.storage.archive import NO_CHAIN, read_frames, seal_tail
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.records import MANY, Records, _uncollected
from threadkeep.strict_json import MAX_INTEGER_BITS, may_hold_large_integer

REF = ThreadRef.of("t")
SEAL = Seal("messages", "t", 7, "0a", 3, 0, None, NO_CHAIN)


def strictly(record):
    return model._any_entry(record, "key", "t")


def told(read, *args):
    """What comes of reading: entries with the very types of their values, or a refusal."""
    try:
        return repr(read(*args, where="key", thread="t"))
    except ArchiveCorrupt:
        return "refused"


@pytest.mark.parametrize("name", HOSTILE_RECORDS)
def test_what_is_refused_is_refused_either_way(name):
    assert model._usual_entry(HOSTILE_RECORDS[name]) is None
    with pytest.raises(ArchiveCorrupt):
        Entry.from_record(HOSTILE_RECORDS[name])


@pytest.mark.parametrize("name", STRANGE_RECORDS)
def test_what_is_strange_and_sound_is_the_same_either_way(name):
    record = STRANGE_RECORDS[name]
    assert repr(Entry.from_record(record)) == repr(strictly(record))


def test_the_quick_way_is_the_usual_one():
    for body in (
        "x" * 5_000,
        {"role": "user", "content": [{"type": "text", "text": "{[" * 500}]},
        [1, 2.5, None, True],
    ):
        assert model._usual_entry(Entry("m1", "user", body, meta={"ts": "now"}).to_record()) is not None


numbers = st.integers(-(2**200), 2**200) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(values, st.dictionaries(st.text(max_size=5), values, max_size=3))
@tuned(max_examples=EXAMPLES)
def test_any_value_is_the_same_either_way(body, meta):
    entry = Entry("m1", "tool", body, "plain", meta)
    record = entry.to_record()
    assert record.isascii()
    assert b"\n" not in record
    assert repr(Entry.from_record(record)) == repr(strictly(record)) == repr(entry)


@given(lines_of_json | st.binary(max_size=40))
@tuned(max_examples=EXAMPLES)
def test_any_line_is_refused_or_the_same_either_way(line):
    quick = model._usual_entry(line)
    assert quick is None or repr(quick) == repr(strictly(line))


fragments = st.sampled_from([*HOSTILE_RECORDS.values(), *STRANGE_RECORDS.values()]).filter(
    lambda each: len(each) < 9_000
)
some_lines = st.lists(fragments | lines_of_json, max_size=5)


@given(some_lines, st.sampled_from([b"", b"{}\n", b'{"$threadkeep":{}}\n', "ü\n".encode()]))
@tuned(max_examples=EXAMPLES)
def test_a_text_tells_what_its_lines_tell(lines, behind):
    lines = [line.replace(b"\n", b" ") for line in lines]
    text = b"".join(line + b"\n" for line in lines)
    assert told(entries_in_text, text + behind, len(text), len(lines)) == told(entries_in, lines)


@given(some_lines)
@tuned(max_examples=EXAMPLES)
def test_lines_that_are_parted_anew_are_never_read_as_others(lines):
    """Blank lines, two values on one line and values on two lines are what a quick decoder would overlook."""
    joined = b"\n".join([*lines, b""])
    for text in (joined, joined.replace(b"}\n{", b"}{", 1), joined.replace(b",", b",\n", 1), joined + b"\n"):
        parted = text.split(b"\n")[:-1]
        assert told(entries_in_text, text, len(text), len(parted)) == told(entries_in, parted)


@pytest.mark.parametrize("before", [0, 1, 600, 615, 616, 617, 1_231, 2_000])
def test_an_integer_that_is_too_large_is_seen_wherever_it_stands(before):
    digits = len(str(2**MAX_INTEGER_BITS))
    assert may_hold_large_integer(b"x" * before + b"9" * digits + b"x" * 50)
    record = json.dumps({"v": 1, "id": "m", "kind": "user", "fmt": "plain", "body": ["x" * before, 1], "meta": {}})
    with pytest.raises(ArchiveCorrupt):
        Entry.from_record(record.replace(" 1]", "9" * digits + "]").encode())


def read(count, tail=0):
    entries = [Entry(f"m{n}", "user", {"n": n}) for n in range(count + tail)]
    half = seal_tail([entry.to_record() for entry in entries[: count // 2]], SEAL, base_count=0, base_chain=NO_CHAIN)
    rest = [entry.to_record() for entry in entries[count // 2 : count]]
    body = half.body + seal_tail(rest, SEAL, base_count=count // 2, base_chain=half.seal.chain).body
    frames = list(read_frames(body, where="key", limits=ReadLimits(10**8)))
    return entries, Records(REF, frames, [entry.to_record() for entry in entries[count:]])


@pytest.mark.parametrize(("count", "tail"), [(0, 0), (0, 3), (2, 0), (7, 4), (MANY, 5)])
def test_records_are_told_from_any_place_on_and_from_their_end(count, tail):
    entries, records = read(count, tail)
    assert len(records) == count + tail
    assert records.entries() == entries
    assert records.lines() == [entry.to_record() for entry in entries]
    assert list(records.newest_first()) == entries[::-1]
    for start in {0, 1, count // 2, count - 1, count, count + 1, count + tail, count + tail + 9} - {-1}:
        assert records.entries(start) == entries[start:]
    for places in ([], [count + tail - 1], [0], [count, 0], list(range(count + tail))):
        if all(0 <= place < count + tail for place in places):
            assert records.at(places) == [entries[place] for place in places]


class FirstValues(dict):
    """As frameworks have for forms: it holds lists, and shows the first of each."""

    def items(self):
        return [(name, values[0]) for name, values in super().items()]


def test_a_dict_of_a_kind_of_its_own_is_stored_as_it_shows_itself():
    shown = Entry("m", "user", {"form": {"q": "x"}})
    assert checked_record(Entry("m", "user", {"form": FirstValues(q=["x"])}), max_bytes=1000) == shown.to_record()
    with pytest.raises(InvalidMessage, match=r"body\.form\.q"):
        checked_record(Entry("m", "user", {"form": FirstValues(q=[b"x"])}), max_bytes=1000)


def test_records_grow_and_what_they_came_from_does_not():
    tail = [Entry("m0", "user", 0).to_record()]
    records = Records(REF, [], tail)
    records.extend([Entry("m1", "user", 1).to_record()])
    assert [entry.id for entry in records.entries()] == ["m0", "m1"]
    assert len(tail) == 1


def test_places_in_the_base_may_be_asked_for_again_and_again():
    entries, records = read(20, 3)
    for place in (19, 0, 22, 7):
        assert records.at([place]) == [entries[place]]
    records.extend([Entry("m23", "user", 23).to_record()])
    assert [entry.id for entry in records.entries(18)] == [f"m{n}" for n in range(18, 24)]
    assert [entry.id for entry in records.newest_first()] == [f"m{n}" for n in range(23, -1, -1)]


def test_the_collector_runs_in_what_is_forked_while_another_thread_parses():
    with _uncollected(MANY):
        child = os.fork()
        if child == 0:
            os._exit(0 if gc.isenabled() else 1)
        assert not gc.isenabled()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert gc.isenabled()


def test_the_collector_runs_again_after_many_were_parsed_or_refused():
    assert gc.isenabled()
    _, records = read(MANY)
    records.entries()
    assert gc.isenabled()
    with pytest.raises(ArchiveCorrupt, match="a record of t in Redis"):
        Records(REF, [], [*records.lines(), b"{}"]).entries()
    assert gc.isenabled()
    gc.disable()
    try:
        records.entries()
        assert not gc.isenabled()
    finally:
        gc.enable()
