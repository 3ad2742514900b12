"""Every snapshot that zeitlich wrote reads back message for message, state for state."""

import base64
import gzip
import json
from pathlib import Path

import pytest

from tests.integration.command import run_command
from tests.integration.protocol import messages_in
from threadkeep.cli.reading import read_thread
from threadkeep.config import Settings
from threadkeep.errors import ArchiveCorrupt
from threadkeep.model import ThreadRef
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.link import run_now as now
from threadkeep.storage.snapshot_v1 import read_v1, write_v1
from threadkeep.tasks.flush import flush
from threadkeep.tasks.hydrate import hydrate

VECTORS = Path(__file__).parent.parent / "data" / "v1-vectors"
NAMES = sorted(path.name.removesuffix(".expected.json") for path in VECTORS.glob("*.expected.json"))
LIMIT = 10**6
ANTHROPIC = {
    "basic-anthropic",
    "emoji-astral",
    "lone-surrogates",
    "newlines-nul-controls",
    "null-state",
    "state-tasks-nested",
    "unicode-bmp",
}
"""Vectors of which every message is an envelope of zeitlich's adapter for Anthropic."""


def expected(name):
    return json.loads((VECTORS / f"{name}.expected.json").read_text())


def bodies(name):
    return [(VECTORS / f"{name}.json.gz").read_bytes(), (VECTORS / f"{name}.json").read_bytes()]


def messages_of(name):
    return [base64.b64decode(item).decode("utf-8", "surrogatepass") for item in expected(name)["messagesBase64"]]


def test_there_are_vectors():
    assert len(NAMES) == 23


def codec_of(name):
    return "anthropic" if name in ANTHROPIC else "v1"


def bodies_of(name):
    """What each message is as an entry's body: the provider's own message, or the string that was stored."""
    if codec_of(name) == "v1":
        return messages_of(name)
    return [provider_message(json.loads(message)) for message in messages_of(name)]


def provider_message(envelope):
    return {**envelope["message"], "role": "system"} if envelope.get("isSystem") else envelope["message"]


def state_of(name):
    """The stored state; beside Anthropic's messages what was custom and the tasks stand side by side."""
    state = expected(name)["snapshot"]["state"]
    if state is None or codec_of(name) == "v1":
        return state
    return {**state["custom"], "tasks": state["tasks"]} if state["tasks"] else state["custom"]


def exported(found):
    return json.loads(write_v1(found.entries, found.state, codec=found.seal.codec, compress=False))


@pytest.mark.parametrize("name", NAMES)
def test_a_vector_reads_gzipped_and_plain(name):
    wanted = expected(name)["snapshot"]
    assert wanted["messages"] == messages_of(name)
    for body in bodies(name):
        snapshot = read_v1(body, thread=name, where=name, limits=ReadLimits(LIMIT))
        assert snapshot.codec == codec_of(name)
        assert {entry.fmt for entry in snapshot.entries} <= {snapshot.codec}
        assert [entry.body for entry in snapshot.entries] == bodies_of(name)
        assert snapshot.state == state_of(name)
        kept = [entry.meta.get("v1_id", entry.id) for entry in snapshot.entries]
        assert len(wanted["dedupIds"]) in (0, len(kept))
        assert not wanted["dedupIds"] or kept == wanted["dedupIds"]
        assert len({entry.id for entry in snapshot.entries}) == len(kept)


@pytest.mark.parametrize("name", NAMES)
def test_a_vector_is_written_back_as_it_was(name):
    snapshot = read_v1(bodies(name)[0], thread=name, where=name, limits=ReadLimits(LIMIT))
    plain = write_v1(snapshot.entries, snapshot.state, codec=snapshot.codec, compress=False)
    assert json.loads(plain) == expected(name)["snapshot"]
    assert gzip.decompress(write_v1(snapshot.entries, snapshot.state, codec=snapshot.codec)) == plain


@pytest.mark.parametrize("name", NAMES)
def test_a_vector_in_the_bucket_comes_back_through_the_fallback(name, settings, stores_for_test, raw_bucket):
    """It comes back hot, and the next flush writes it in this version's own format, beside the old object."""
    wanted, body = expected(name), bodies(name)[0]
    stores = stores_for_test(settings.model_copy(update={"v1_fallback": True}))
    ref = ThreadRef(wanted["threadKey"], wanted["threadId"])
    theirs = wanted["prefix"].removesuffix(" (default)").strip("/")
    key = settings.s3_prefix + wanted["objects"]["gz"]["s3Key"].removeprefix(theirs)
    if ".." in key:  # an HTTP path cannot carry it everywhere: such a thread is imported from the object's file
        assert hydrate(stores, ref).outcome == "absent"
        return
    raw_bucket.put_object(Bucket=settings.s3_bucket, Key=key, Body=body)
    assert exported(read_thread(stores, ref, archived=True)) == wanted["snapshot"]
    assert hydrate(stores, ref).outcome == "restored"
    assert messages_in(stores, ref) == bodies_of(name)
    head = now(stores.hot.look(ref)).head
    assert (head.codec, head.state) == (codec_of(name), state_of(name))
    assert flush(stores, ref, "evict").outcome == "archived"
    assert hydrate(stores, ref).outcome == "restored"
    assert messages_in(stores, ref) == bodies_of(name)
    assert exported(read_thread(stores, ref)) == wanted["snapshot"]


@pytest.mark.parametrize("name", ["basic-anthropic", "state-tasks-nested", "lone-surrogates", "odd-message-ids"])
def test_a_vector_is_imported_and_exported_by_the_command_line(name, settings, worker, tmp_path):
    worker()
    file = tmp_path / "out.json.gz"
    assert run_command(settings, "import", VECTORS / f"{name}.json.gz", "--id", "t", "--wait", 20).code == 0
    (row,) = run_command(settings, "ls", "--json").lines
    assert row["codec"] == codec_of(name)
    assert run_command(settings, "export", "t", "--format", "v1", "--output", file).code == 0
    assert json.loads(gzip.decompress(file.read_bytes())) == expected(name)["snapshot"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "no JSON"),
        (b'{"v":1,"messages":' + b"[" * 200_000, "no JSON"),
        (b'{"v":2,"messages":[]}', "version 1"),
        (b'{"v":1,"messages":[1]}', "not strings"),
        (b'{"v":1,"messages":[],"state":3}', "no object"),
        (b"\x1f\x8b\x08\x00broken", "damaged|cut short"),
        (bodies("basic-anthropic")[0][:-9], "cut short"),
        (b'{"v":1,"messages":["' + b"x" * LIMIT + b'"]}', None),
    ],
)
def test_what_is_no_snapshot_is_refused(body, reason):
    if reason is None:
        body, reason = gzip.compress(body), "MAX_THREAD_BYTES"
    with pytest.raises(ArchiveCorrupt, match=reason):
        read_v1(body, thread="t", where="k", limits=ReadLimits(LIMIT))


def test_the_fallback_is_off_unless_asked_for():
    assert Settings.load().v1_fallback is False
