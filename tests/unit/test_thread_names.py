"""Names map one to one to keys and objects, and what breaks a rule is told which."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadkeep.errors import InvalidThreadId
from threadkeep.model import ThreadRef
from threadkeep.storage.cold_keys import ColdKeys
from threadkeep.storage.hot_keys import ThreadKeys

NASTY = ["/", "a/b", "..", ".", "%2F", "%", "{a}", "}{", "a b", "é", "нить-😀", "é", "conflicts", ":", "a:head"]
names = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=18),
)


@given(names, names, names, names)
def test_no_two_threads_share_a_key_or_an_object(namespace, thread_id, other_namespace, other_id):
    one, other = ThreadRef(namespace, thread_id), ThreadRef(other_namespace, other_id)
    cold = ColdKeys("p")
    same = one == other
    assert (cold.thread(one) == cold.thread(other)) is same
    assert (ThreadKeys("p", one).head == ThreadKeys("p", other).head) is same
    assert same or not set(ThreadKeys("p", one).all[:5]) & set(ThreadKeys("p", other).all[:5])


@given(names, names)
def test_a_name_comes_back_from_its_keys(namespace, thread_id):
    ref = ThreadRef(namespace, thread_id)
    assert ThreadRef.from_member(ref.member) == ref
    assert ColdKeys("p").thread_of(ColdKeys("p").thread(ref)) == ref
    segment = ColdKeys("p").thread(ref).split("/")
    assert all(part not in (".", "..") and len(part) <= 255 for part in segment)


@given(names, names)
def test_all_keys_of_a_thread_lie_on_one_slot(namespace, thread_id):
    keys = ThreadKeys("p", ThreadRef(namespace, thread_id))
    tags = {key[key.index("{") : key.index("}") + 1] for key in [*keys.all, *keys.staging("0a"), keys.answer("q")]}
    assert len(tags) == 1


@pytest.mark.parametrize(
    ("namespace", "thread_id", "rule"),
    [
        ("messages", "", "must not be empty"),
        ("", "t", "must not be empty"),
        ("messages", "x" * 241, "241 bytes .* the limit is 240"),
        ("messages", "é" * 41, "246 bytes .* the limit is 240"),
        ("n" * 201, "t", "201 bytes .* the limit is 200"),
        ("messages", "a\ud800b", "lone surrogate"),
        ("messages", "a\x00b", "control character .*U\\+0000"),
        ("messages", "a\nb", "control character .*U\\+000A"),
        ("messages\x7f", "t", "control character .*U\\+007F"),
        ("messages", 42, "must be a string, not int"),
        ("messages", None, "must be a string, not NoneType"),
    ],
)
def test_what_breaks_a_rule_is_told_which(namespace, thread_id, rule):
    with pytest.raises(InvalidThreadId, match=rule) as caught:
        ThreadRef(namespace, thread_id)
    assert "Nothing was read or written" in str(caught.value)


def test_the_longest_names_fit():
    ref = ThreadRef("n" * 200, "/" * 80)
    assert len(ref.member) == 441
    assert ColdKeys("p").thread_of(ColdKeys("p").thread(ref)) == ref
