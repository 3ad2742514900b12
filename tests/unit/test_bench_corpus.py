"""What the benchmarks stand on: corpora that do not change, and numbers that say what they should."""

import json
from collections import Counter

import pytest

from benchmarks import corpus
from benchmarks.report import targets
from benchmarks.stats import Spread


@pytest.mark.parametrize("count", [20, 200, 2_000])
def test_a_corpus_is_the_same_each_time_and_as_large_as_it_says(count):
    made = corpus.make(count)
    assert made.sha256 == corpus.make(count).sha256
    assert (len(made.messages), len(made.more)) == (count, corpus.NEW)
    assert made.more[3] not in made.messages  # what its tool gave
    assert abs(made.bytes - corpus.SIZES[count]) < 0.05 * corpus.SIZES[count]


def test_a_corpus_mixes_the_kinds_of_messages_and_repeats_nothing():
    made = corpus.make(2_000)
    kinds = Counter(m["content"][0]["type"] if isinstance(m["content"], list) else m["role"] for m in made.messages)
    assert kinds == {"user": 500, "text": 500, "tool_use": 500, "tool_result": 500}
    results = [json.dumps(m["content"][0]["content"]) for m in made.messages[3::4]]
    assert len(set(results)) == len(results)


def test_a_corpus_survives_its_file(tmp_path):
    made = corpus.make(20)
    corpus.write(made, tmp_path / "corpus")
    assert corpus.read(tmp_path / "corpus") == made


def test_a_digest_tells_the_order_of_messages():
    first, second = corpus.make(20).messages[:2]
    assert corpus.digest([first, second]) != corpus.digest([second, first])


def test_a_spread_stands_between_its_quartiles():
    spread = Spread.of([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (spread.low, spread.median, spread.high) == (2.0, 3.0, 4.0)


@pytest.mark.parametrize(("theirs", "met"), [(60.0, True), (40.0, False)])
def test_a_target_is_met_by_the_median_of_what_each_round_gave(theirs, met):
    samples = [
        _round(name, turn, factor * wall)
        for turn, factor in enumerate((1.0, 3.0, 0.5))
        for name, wall in (("threadkeep", 10.0), ("seeds", theirs))
    ]
    (resume,) = [each for each in targets(samples) if each["work"].startswith("resume cycle")]
    assert resume["met"] is met
    assert resume["spread"]["median"] == pytest.approx(theirs / 10)


def _round(name, turn, wall):
    phases = ("hydrate", "read", "parse", "append", "flush")
    cycle = {phase: {"wall": wall, "cpu": wall} for phase in phases}
    facts = {"object_before": 1, "object_after": 1}
    return {"case": "resume", "contender": name, "size": 200, "round": turn, "cycles": [cycle], **facts}
