"""An erasure and everything that may be under way meanwhile, in any order; nothing of what was erased is left."""

import os
from contextlib import suppress
from itertools import count

import pytest

from tests.integration.erasing import INNOCENT, REFUSED, Case, Interrupted

PROVE = os.environ.get("PROVE") == "1"
OFF = {"conditional_writes": "off"}

MEANWHILE = [
    ("hot", "checkpoint", {}),
    ("hot", "linger", {}),
    ("hot", "evict", {}),
    ("hot", "evict", OFF),
    ("never_archived", "evict", {}),
    ("cold", "hydrate", {}),
    ("v1", "hydrate", {"v1_fallback": True}),
    ("hot", "sweep", {}),
    ("cold", "describe", {}),
    ("damaged", "verify", {}),
    ("damaged", "verify", OFF),
    ("cold", "reconcile", {}),
    ("with_copies", "erase_the_same", {}),
    ("with_copies", "erase_by_another", {}),
    ("hot", "ask_again", OFF),
    ("leased", "append", {}),
    ("leased", "truncate", {}),
    ("leased", "exit", {}),
    ("cold", "fork", {}),
    ("cold", "overwrite", {}),
    ("hot", "overwrite", OFF),
    ("cold", "create", {}),
    ("cold", "bring_in", {}),
]
each_meanwhile = pytest.mark.parametrize(
    ("number", "state", "other", "changes"),
    [(number, *each) for number, each in enumerate(MEANWHILE)],
    ids=["-".join([state, other, *changes]) for state, other, changes in MEANWHILE],
)


@each_meanwhile
def test_nothing_is_left_whatever_happens_between_two_steps_of_an_erasure(
    case_of, number, state, other, changes, record_property
):
    places = count(1) if PROVE else (2 + number % 12, 14 + number % 12)
    met = raced(case_of, state, changes, places, act=Case.erase, meanwhile=getattr(Case, other))
    record_property("proof", {"of": "an erasure met by another operation in its middle", "places": met})


@each_meanwhile
def test_nothing_is_left_whatever_two_steps_an_erasure_comes_between(
    case_of, number, state, other, changes, record_property
):
    places = count(1) if PROVE else (2 + number % 6,)
    met = raced(case_of, state, changes, places, act=getattr(Case, other), meanwhile=Case.erase)
    record_property("proof", {"of": "another operation met by an erasure in its middle", "places": met})


def raced(case_of, state, changes, places, *, act, meanwhile):
    """Do one, and the other before each of these steps of it, up to its last and once after it; how many cases."""
    cases = 0
    for place in places:
        case = case_of(**changes)
        getattr(case, state)()
        cases += 1
        if not meet(case, place, act, meanwhile):
            break
    return cases


def meet(case, place, act, meanwhile):
    """Let the other come before one step, or else after the last one; whether there are so many steps."""
    with Interrupted(place, lambda: case.tried(meanwhile), idle=case.help) as work, suppress(*REFUSED):
        act(case)
    if work.at is None:
        case.tried(meanwhile)
    case.settle()
    what = f"{meanwhile.__name__} before {work.at} of {act.__name__}"
    assert case.left() == [], what
    assert case.messages() in (None, [INNOCENT]), what
    assert case.receipt.outcome == "erased", what
    return work.at is not None
