"""Every error says what happened and what is safe, survives a worker's results, and has one base."""

import inspect
import pickle

import pytest

from threadkeep import errors
from threadkeep.errors import ThreadkeepError

SAMPLES = {"seconds": 1.5, "acknowledged": 9, "found": 5}
CLASSES = [
    each
    for _, each in inspect.getmembers(errors, inspect.isclass)
    if issubclass(each, ThreadkeepError) and each is not ThreadkeepError
]


def sample(kind):
    names = list(inspect.signature(kind.__init__).parameters)[1:]
    return kind(*[SAMPLES.get(name, f"<{name}>") for name in names])


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_survives_being_pickled(kind):
    error = sample(kind)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (kind, str(error), vars(error))


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_names_its_facts_and_reads_as_sentences(kind):
    error = sample(kind)
    text = str(error)
    assert all(f"<{name}>" in text for name, value in vars(error).items() if value == f"<{name}>")
    assert len(text) > 40
    assert kind.__doc__


def test_only_what_may_succeed_later_is_retryable():
    assert {kind.__name__ for kind in CLASSES if kind.retryable} == {
        "StoreUnavailable",
        "AnswerGarbled",
        "BrokerUnavailable",
        "HydrateTimeout",
        "FlushTimeout",
        "StoreFull",
        "ThreadBusy",
    }
