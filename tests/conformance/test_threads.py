"""What zeitlich asks of its thread manager, its keys and its ids, asked of ours; and what it does not ask.

Each test bears the title of the one that it answers to; docs/reference/conformance.md pairs them. A dagger marks a
result that differs on purpose.
"""

import re
import string

import pytest

from threadkeep import ThreadBusy, ThreadExists, ThreadNotFound, ThreadRef
from threadkeep.config import Settings
from threadkeep.errors import UnknownCodec
from threadkeep.model import fresh_id
from threadkeep.tasks.flush import flush

TASK = {
    "id": "t1",
    "subject": "do a thing",
    "description": "do it",
    "activeForm": "doing a thing",
    "status": "pending",
    "metadata": {},
    "blockedBy": [],
    "blocks": [],
}
STATE = {"counter": 7, "label": "hello", "nested": {"é": [1, None, {"deep": 0.5}]}, "tasks": [["t1", TASK]]}


def user(text):
    return {"role": "user", "content": text}


# --- manager.test.ts --------------------------------------------------------------------------------------------------


def test_load_state_returns_null_when_nothing_has_been_saved(face, tiers, thread_id):
    with face.new(thread_id) as session:
        session.append(user("hello"))
    assert face.read(thread_id).state is None
    tiers.put_away(face, thread_id)
    assert face.read(thread_id).state is None


def test_save_state_writes_a_round_trippable_json_slice(face, tiers, thread_id):
    with face.new(thread_id) as session:
        session.state = STATE
    assert face.read(thread_id).state == STATE
    tiers.put_away(face, thread_id)
    assert face.read(thread_id).state == STATE


def test_save_state_throws_if_the_thread_was_never_initialized(face, thread_id):
    """† A state is saved through an open session, so it is the opening that is refused; and it makes nothing."""
    with pytest.raises(ThreadNotFound, match=thread_id):
        face.open(thread_id)
    assert not face.exists(thread_id)


def test_fork_copies_the_persisted_state_slice_to_the_new_thread(face, thread_id):
    with face.new(thread_id) as session:
        session.state = STATE
    with face.fork(thread_id) as fork:
        assert face.read(fork.id).state == STATE
        fork.state["counter"] = 8
    assert face.read(fork.id).state == {**STATE, "counter": 8}
    assert face.read(thread_id).state == STATE


def test_fork_leaves_the_new_threads_slice_null_when_source_has_none(face, thread_id):
    with face.new(thread_id) as session:
        session.append(user("hello"))
    with face.fork(thread_id) as fork:
        assert fork.messages == [user("hello")]
    assert face.read(fork.id).state is None


def test_delete_state_removes_only_the_state(face, thread_id):
    """† There is no call of its own: an empty state is assigned, and stays empty instead of null."""
    with face.new(thread_id, state=STATE) as session:
        session.append(user("hello"))
        session.state = {}
    assert face.read(thread_id).state == {}
    assert face.read(thread_id).messages == [user("hello")]


def test_delete_removes_messages_meta_and_state_together(face, tiers, thread_id):
    """† Ids and the archive go with them; what is left are a receipt, for a month, and a mark in the archive."""
    with face.new(thread_id, state=STATE, wait_flush=20) as session:
        session.append(user("hello"), id="m1")
    request = face.delete(thread_id, wait=20)
    assert tiers.all_keys(thread_id) == [f"erased:{request}"]
    assert tiers.archived(thread_id).meta.tombstone
    with pytest.raises(ThreadNotFound):
        face.read(thread_id)


# --- keys.test.ts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("namespace", ["messages", "my Scope/ü"])
def test_log_key_matches_the_internal_list_key_format(face, tiers, settings, thread_id, namespace):
    """† The key has another form: namespace and id are percent-encoded in it, and threads are spread over slots."""
    with face.new(thread_id, namespace=namespace) as session:
        session.append(user("hello"), id="m1")
        ref = ThreadRef(namespace, thread_id)
        encoded = {"messages": "messages", "my Scope/ü": "my%20Scope%2F%C3%BC"}[namespace]
        key = f"{settings.key_prefix}:{{s{ref.shard:04d}}}:{encoded}/{thread_id}:log"
        assert tiers.names(thread_id, namespace).log == key
        (record,) = tiers.redis("LRANGE", key, 0, -1)
        assert record.startswith(b'{"v":1,"id":"m1",')


def test_head_key_matches_the_internal_meta_key_format(face, tiers, settings, thread_id):
    """† The mark of a thread's existence is a hash that describes the thread."""
    with face.new(thread_id) as session:
        shard = ThreadRef.of(thread_id).shard
        key = f"{settings.key_prefix}:{{s{shard:04d}}}:messages/{thread_id}:head"
        assert tiers.names(thread_id).head == key
        assert int(tiers.redis("HGET", key, "rev")) == session.rev


def test_thread_ttl_seconds_is_15_minutes_and_for_cached_copies_alone(face, tiers, thread_id):
    """† A thread that the archive does not hold never expires, where zeitlich forgets it after 90 days."""
    assert Settings.model_fields["linger_seconds"].default == 900
    lingering = face.tuned(linger_seconds=900)
    with lingering.new(thread_id, wait_flush=20) as session:
        session.append(user("hello"))
        assert set(tiers.hot_keys(thread_id).values()) == {-1}
    assert all(0 < left <= 900_000 for left in tiers.hot_keys(thread_id).values())


def test_writes_and_reads_via_the_exact_keys_returned_by_the_public_helpers(face, tiers, thread_id):
    names = tiers.names(thread_id)
    with face.new(thread_id, codec="plain") as session:
        session.append(user("hello"), id="m1")
        assert set(tiers.all_keys(thread_id)) == {"head", "ids", "log"}
        tiers.redis("HSET", names.head, "labels", '{"by":"hand"}')
    assert face.read(thread_id).labels == {"by": "hand"}


# --- id.test.ts -------------------------------------------------------------------------------------------------------


def test_returns_a_string_of_default_length_22(face):
    """† Longer than zeitlich's 12: random enough that nobody needs to look whether an id is taken."""
    with face.new() as session:
        assert len(session.id) == 22


def test_returns_a_string_of_custom_length():
    assert len(fresh_id(6)) == 6


def test_contains_only_base_62_characters(face):
    with face.new() as session:
        made = session.append(*[user(str(number)) for number in range(10)])
    assert all(re.fullmatch("[A-Za-z0-9]{22}", one) for one in [session.id, *made])


def test_generates_unique_ids_on_successive_calls():
    """Each of the 62 characters comes up about as often as any other."""
    made = [fresh_id() for _ in range(2000)]
    assert len(set(made)) == 2000
    text = "".join(made)
    expected = len(text) / 62
    assert all(0.7 < text.count(one) / expected < 1.3 for one in string.ascii_letters + string.digits)


def test_returns_empty_string_for_length_0():
    assert fresh_id(0) == ""


# --- adapter-id.test.ts -----------------------------------------------------------------------------------------------


def kept_as(face, tiers, codec):
    """What a new thread of this codec and its first entry say that they are."""
    with face.new(codec=codec, system="Be brief.") as session:
        (entry,) = session.entries
        stored = tiers.redis("HGET", tiers.names(session.id).head, "codec").decode()
        assert session.codec == stored == entry.fmt
    return stored


def test_langchain_adapter_id_is_the_wire_format_string(face, tiers):
    """† It is spelled `langchain`, and stored with the thread and each message: no app needs to remember it."""
    assert kept_as(face, tiers, "langchain") == "langchain"


def test_google_genai_adapter_id_is_the_wire_format_string(face, tiers):
    """† It is spelled `google-genai`, and stored like the others."""
    assert kept_as(face, tiers, "google-genai") == "google-genai"


def test_anthropic_adapter_id_is_the_wire_format_string(face, tiers):
    assert kept_as(face, tiers, "anthropic") == "anthropic"


def test_adapter_id_is_the_union_of_every_built_in_id(face):
    """† Checked when a thread is made, not by a compiler."""
    with pytest.raises(UnknownCodec, match="anthropic, google-genai, langchain"):
        face.new(codec="someOtherAdapter")


# --- what zeitlich does not ask ---------------------------------------------------------------------------------------


def test_a_retried_creation_keeps_the_prompt_and_what_followed_it(face, thread_id):
    """In zeitlich a repeated append of the system prompt empties the thread."""
    prompt = {"role": "system", "content": "Be brief."}
    with face.new(thread_id, system="Be brief.") as session:
        session.append(user("hello"))
    with pytest.raises(ThreadExists):
        face.new(thread_id, system="Be brief.")
    for _ in range(2):
        with face.open(thread_id, create=True, system="Be brief.") as session:
            assert session.messages == [prompt, user("hello")]


def test_a_retried_append_keeps_the_prompt(face, thread_id):
    prompt = {"role": "system", "content": "Be brief."}
    with face.new(thread_id) as session:
        for _ in range(2):
            session.append(prompt, id="system")
            session.append(user("hello"), id="m1")
        assert session.messages == [prompt, user("hello")]


def test_all_keys_of_a_thread_get_their_expiry_at_once(face, tiers, thread_id):
    """In zeitlich an append does not refresh the mark of existence, so that a long session outlives its thread."""
    with face.new(thread_id, wait_flush=20) as session:
        session.append(user("1"))
    first = tiers.hot_keys(thread_id)
    assert set(first) == {"head", "base", "ids"}
    assert all(0 < left <= 60_000 for left in first.values())
    with face.open(thread_id, wait_flush=20) as session:
        assert set(tiers.hot_keys(thread_id).values()) == {-1}
        session.append(user("2"))
        assert set(tiers.hot_keys(thread_id).values()) == {-1}
        assert set(tiers.hot_keys(thread_id)) == {"head", "base", "log", "ids"}
    again = tiers.hot_keys(thread_id)
    assert set(again) == {"head", "base", "ids"}
    assert max(again.values()) - min(again.values()) < 1000
    assert 0 < max(again.values()) <= 60_000


def test_two_sessions_on_one_thread_take_turns(face, stores, tiers, thread_id):
    """In zeitlich the first to leave deletes the hot copy under the other."""
    with face.new(thread_id) as first:
        first.append(user("1"))
        with pytest.raises(ThreadBusy):
            face.open(thread_id)
        assert face.read(thread_id).messages == [user("1")]
        assert flush(stores, ThreadRef.of(thread_id), "evict").residence == "kept"
        first.append(user("2"))
    with face.open(thread_id, wait=20) as second:
        assert second.messages == [user("1"), user("2")]


def test_of_many_that_open_a_thread_at_once_one_gets_it(face, thread_id):
    with face.new(thread_id):
        pass
    got = face.gather(*[lambda: face.open(thread_id)] * 8, return_exceptions=True)
    sessions = [one for one in got if not isinstance(one, ThreadBusy)]
    assert len(sessions) == 1
    sessions[0].close()
