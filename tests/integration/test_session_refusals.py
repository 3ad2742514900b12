"""Bad input is refused before anything changes, with an error that names the field, the limit and what to do."""

import datetime as dt
import math

import pytest

from tests.integration.protocol import user
from threadkeep import Entry
from threadkeep.errors import FormatMismatch, InvalidMessage, InvalidThreadId, MessageConflict, MessageNotFound


@pytest.fixture
def session(settings):
    from threadkeep import Threadkeep

    small = settings.model_copy(update={"max_message_bytes": 2000, "max_append_bytes": 5000, "max_state_bytes": 500})
    with Threadkeep(small) as keep, keep.new() as session:
        session.append(user("kept"), id="kept")
        yield session
        if session.state.get("bad"):
            session.state.clear()
        assert session.messages == [user("kept")]
        assert session.count == 1


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (user("x" * 2000), r"2,\d+ bytes: exceeds THREADKEEP_MAX_MESSAGE_BYTES \(2,000\)"),
        ({"role": "user", "content": math.nan}, r"body\.content: nan: is not JSON"),
        ({"role": "user", "content": [1, {"deep": -math.inf}]}, r"body\.content\[1\]\.deep: -inf"),
        ({"role": "user", "content": b"raw"}, "body.content: bytes: is not JSON"),
        ({"role": "user", "content": {1, 2}}, "set: is not JSON"),
        ({"role": "user", "content": dt.datetime(2026, 1, 1)}, "datetime: is not JSON"),  # noqa: DTZ001
        ({"role": "user", 7: "seven"}, "object keys must be strings"),
        (Entry("", "user", 1), "id: .* must be a string of 1 to 512"),
        (Entry("x" * 513, "user", 1), "id: .* must be a string of 1 to 512"),
        (Entry(["l"], "user", 1), "id: .* must be a string of 1 to 512"),
        (Entry("e", "robot", 1), "kind: 'robot': must be one of"),
        (Entry("e", "user", 1, meta=[]), "meta: list: must be an object"),
    ],
)
def test_a_message_that_cannot_be_kept_is_refused(session, message, says):
    with pytest.raises(InvalidMessage, match=says) as caught:
        session.append(user("good"), message)
    assert "Nothing was written" in str(caught.value)


def test_nesting_has_a_limit(session):
    value = []
    for _ in range(200):
        value = [value]
    with pytest.raises(InvalidMessage, match="at most 100 levels"):
        session.append({"role": "user", "content": value})


def test_a_batch_has_a_limit(session):
    with pytest.raises(InvalidMessage, match="MAX_APPEND_BYTES"):
        session.append(*[user("x" * 1500) for _ in range(4)])


def test_an_id_twice_in_one_batch_is_refused(session):
    with pytest.raises(InvalidMessage, match="stands twice"):
        session.append(user("1"), user("2"), ids=["same", "same"])


def test_ids_and_messages_must_match_in_number(session):
    with pytest.raises(InvalidMessage, match="1 ids for 2 messages"):
        session.append(user("1"), user("2"), id="one")


def test_an_id_with_other_content_is_a_conflict(session):
    with pytest.raises(MessageConflict, match="'kept' with other content"):
        session.append(user("new"), user("other"), ids=["new", "kept"])
    assert session.append(user("kept"), id="kept") == ["kept"]


def test_a_message_of_another_codec_is_refused(session):
    with pytest.raises(FormatMismatch, match="keeps 'plain' messages, this one is 'anthropic'"):
        session.append(Entry("a", "assistant", {}, fmt="anthropic"))


def test_truncating_from_nowhere_changes_nothing(session):
    with pytest.raises(MessageNotFound):
        session.truncate("nowhere")


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({"a": 1}, "string of at most 256"),
        ({"a": "x" * 257}, "256"),
        ({"x" * 65: "v"}, "1 to 64"),
        ({"a": "\x00"}, "NUL"),
    ],
)
def test_labels_have_limits(session, labels, says):
    with pytest.raises(InvalidMessage, match=says):
        session.label(**labels)
    assert session.labels == {}


@pytest.mark.parametrize(("state", "says"), [({"bad": math.nan}, "state.bad: nan"), ([1], "must be an object")])
def test_a_state_that_is_no_json_is_refused_at_once(session, state, says):
    session.state = {"good": 1}
    with pytest.raises(InvalidMessage, match=says):
        session.state = state
    assert session.state == {"good": 1}


def test_a_state_that_is_too_large_is_refused_at_the_checkpoint(session):
    session.state = {"bad": "x" * 500}
    with pytest.raises(InvalidMessage, match="MAX_STATE_BYTES"):
        session.checkpoint()
    session.state = {}


def test_a_bad_state_on_leaving_never_hides_the_apps_own_error(keep):
    class Mine(Exception):
        pass

    with pytest.raises(Mine) as caught, keep.new() as session:
        session.append(user("safe"))
        session.state["bad"] = []
        session.state["bad"].append(math.nan)
        raise Mine
    assert any("state.bad[0]: nan" in note for note in caught.value.__notes__)
    assert session.flush_enqueued
    with pytest.raises(InvalidMessage, match=r"state\.bad"), keep.new() as session:
        session.state["bad"] = []
        session.state["bad"].append(math.nan)
    assert keep.read(session.id).messages == []


def test_a_closed_session_writes_no_more(keep):
    from threadkeep.errors import LeaseLost

    with keep.new() as session:
        session.append(user("1"))
    with pytest.raises(LeaseLost):
        session.append(user("2"))
    session.close()


@pytest.mark.parametrize("thread_id", ["", "a\x00", "\ud800", "x" * 300, 5])
def test_every_door_checks_the_name(keep, thread_id):
    for door in (
        keep.open,
        keep.new,
        keep.read,
        keep.stat,
        keep.prefetch,
        keep.flush,
        keep.delete,
        keep.fork,
        keep.exists,
    ):
        with pytest.raises(InvalidThreadId):
            door(thread_id)


def test_what_json_can_carry_comes_back_as_it_was(keep):
    odd = [
        {"role": "user", "content": "lone \ud800 surrogate, \x00 and  "},
        {"role": "user", "content": 2**64 + 1, "float": 0.1, "null": None, "": {"ключ": [True, False]}},
        {"role": "user", "content": "$threadkeep", "$threadkeep": {"v": 2}},
        ["no", "object"],
        "a string",
    ]
    with keep.new() as session:
        session.append(*odd, ids=["é", "a:b", "*?[glob]", "\ud800", "plain"])
        assert session.messages == odd
    assert keep.read(session.id).messages == odd
