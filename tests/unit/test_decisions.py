"""What is decided is a function of values: no server is needed to hold it to its table."""

import dataclasses

import pytest

from threadkeep.config import Settings
from threadkeep.model import ArchiveMeta, StoredObject
from threadkeep.session.codecs import codec_for
from threadkeep.session.codecs.base import Part
from threadkeep.storage.hot import cut
from threadkeep.storage.hot_flow import SealedFlush
from threadkeep.storage.hot_head import Head
from threadkeep.tasks.lost_race import decide_lost_race
from threadkeep.tasks.sealing import Prepared
from threadkeep.tasks.sweeper import due

SETTINGS = Settings.load()
NOW = 10**12
DIRTY = Head(rev=9, archived=5, gen="0a", born=1, dirty_since=NOW - 1000)
LEASED = dataclasses.replace(DIRTY, lease="x", lease_until=NOW + 1000)
LONG = int(SETTINGS.checkpoint_after * 1000) + 1


@pytest.mark.parametrize(
    ("head", "wanted"),
    [
        (dataclasses.replace(DIRTY, archived=9), "none"),
        (DIRTY, "flush"),
        (dataclasses.replace(LEASED, lease_until=NOW), "flush"),
        (LEASED, "none"),
        (dataclasses.replace(LEASED, dirty_since=NOW - LONG), "checkpoint"),
        (dataclasses.replace(DIRTY, flush_at=NOW - 1), "none"),
        (dataclasses.replace(DIRTY, flush_at=NOW - int(SETTINGS.marker_seconds * 1000)), "flush"),
        (dataclasses.replace(LEASED, dirty_since=NOW - LONG, flush_at=NOW - 1), "none"),
    ],
)
def test_the_sweep_flushes_what_nobody_else_will(head, wanted):
    assert due(head, SETTINGS, now_ms=NOW) == wanted


MINE = Prepared(
    DIRTY,
    "aa",
    b"",
    0,
    ArchiveMeta(rev=9, attempt="aa", chain="", count=1, born=1),
    SealedFlush("aa", 9, 1, 1, [], False, 1, 1, 1, "", 1),
    0,
)


def stored(rev, attempt="bb", *, tombstone=False):
    return StoredObject("k", "e", 1, ArchiveMeta(rev, attempt, "", 1, 1, tombstone=tombstone), 0.0)


@pytest.mark.parametrize(
    ("there", "belongs", "never", "decision"),
    [
        (None, "own", False, "retry"),
        (stored(9, "aa"), "own", False, "done"),
        (stored(9, "aa"), "gone", False, "done"),
        (stored(5), "own", False, "retry"),
        (stored(12), "own", False, "superseded"),
        (stored(9), "own", False, "done"),
        (stored(5), "foreign", False, "set_aside"),
        (stored(12), "foreign", False, "set_aside"),
        (StoredObject("k", "e", 1, None, 0.0), "foreign", False, "set_aside"),
        (stored(5), "gone", False, "another_timeline"),
        (stored(12), "gone", False, "another_timeline"),
        (stored(5, tombstone=True), "foreign", True, "adopt_tombstone"),
        (stored(5, tombstone=True), "foreign", False, "erased"),
        (stored(5, tombstone=True), "own", False, "retry"),
        (stored(5, tombstone=True), "gone", False, "superseded"),
    ],
)
def test_a_lost_race_is_decided_by_what_is_there(there, belongs, never, decision):
    assert decide_lost_race(MINE, there, belongs=belongs, never_archived=never) == decision


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ({"role": "user"}, "user"),
        ({"role": "assistant"}, "assistant"),
        ({"role": "model"}, "assistant"),
        ({"role": "developer"}, "system"),
        ({"role": "tool"}, "tool"),
        ({"role": "wizard"}, "user"),
        ({"role": ["odd"]}, "user"),
        ({}, "user"),
        ("text", "user"),
        ([1], "user"),
    ],
)
def test_the_plain_codec_knows_who_speaks(message, kind):
    assert codec_for("plain").encode(message, "m") == [Part(kind, message)]


def test_pieces_hold_all_and_at_most_a_mebibyte():
    data = bytes(range(256)) * 10_000
    assert b"".join(cut(data)) == data
    assert max(map(len, cut(data))) == 1024 * 1024
    assert cut(b"") == []
