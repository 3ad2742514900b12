"""The fuzz targets: over the corpus, over changes made by chance, and guided by coverage where there is `atheris`."""

import os
import random
import re
import subprocess
import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as tuned
from hypothesis import strategies as st

from tests.fuzz import archive, make_corpus, snapshot_v1
from tests.fuzz.__main__ import CORPUS

ROOT = Path(__file__).parent.parent.parent
TARGETS = {"archive": archive, "snapshot_v1": snapshot_v1}
SECONDS = 600 if os.environ.get("PROVE") else 9
TAKEN = {
    "archive": {"one", "two", "indexed", "state-alone", "fork"},
    "snapshot_v1": {path.name for path in (CORPUS / "snapshot_v1").iterdir()},
}


def inputs(name):
    return {path.name: path.read_bytes() for path in sorted((CORPUS / name).iterdir())}


def spliced(body, size, dice):
    """Stands in for libFuzzer's own mutator: a few bytes changed, cut, doubled or put in."""
    changed = bytearray(body)
    for _ in range(dice.randint(1, 4)):
        at, length = dice.randint(0, len(changed)), dice.randint(0, 9)
        piece = bytes(changed[:length]) if dice.random() < 0.3 else dice.randbytes(length)
        changed[at : at + dice.randint(0, length)] = piece
    return bytes(changed[:size])


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_is_taken_or_refused_as_it_should_be(name):
    taken = {each for each, body in inputs(name).items() if TARGETS[name].check(body)}
    assert taken == TAKEN[name]


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_is_what_our_own_writers_make(name):
    made = {"archive": make_corpus.archives, "snapshot_v1": make_corpus.snapshots}[name]()
    assert made.keys() == inputs(name).keys()
    for each, body in made.items():
        assert TARGETS[name].check(body) == (each in TAKEN[name])


@pytest.mark.parametrize("name", TARGETS)
def test_changes_made_by_chance_are_refused_or_come_back(name):
    target, bodies = TARGETS[name], list(inputs(name).values())

    @given(st.sampled_from(bodies), st.lists(st.integers(0, 2**32), min_size=1, max_size=4))
    @tuned(max_examples=5_000 if os.environ.get("PROVE") else 150)
    def changed(body, seeds):
        for seed in seeds:
            body = target.mutated(body, 16_384, seed, partial(spliced, dice=random.Random(seed)))
        target.check(body)

    changed()


@pytest.mark.timeout(SECONDS + 300)
def test_what_coverage_leads_to_is_refused_or_comes_back(tmp_path, record_property):
    """Without atheris, which exists for Linux alone, changes are made by chance for as long."""
    ran = guided(tmp_path) if find_spec("atheris") else {name: by_chance(name, SECONDS / 2) for name in TARGETS}
    for name, told in ran.items():
        record_property("proof", f"fuzzing {name}: {told}")


def guided(folder):
    """Fuzz all targets at once, each in a process of its own; what they did."""
    command = [sys.executable, "-m", "tests.fuzz"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    running = {
        name: subprocess.Popen(
            [*command, name, "--seconds", str(SECONDS)], cwd=folder, env=environ, stderr=subprocess.PIPE, text=True
        )
        for name in TARGETS
    }
    told = {name: process.communicate(timeout=SECONDS + 60)[1] for name, process in running.items()}
    for name, process in running.items():
        assert process.returncode == 0, told[name][-3000:]
        assert not list(folder.glob("crash-*")), told[name][-3000:]
    return {name: _counted(text) for name, text in told.items()}


def _counted(text):
    first, last = (re.search(rf"{word} +cov: (\d+) ft: (\d+)", text) for word in ("INITED", "DONE"))
    runs, taken = re.search(r"Done (\d+) runs", text), re.findall(r"inputs that were taken: (\d+)", text)
    assert all((first, last, runs)), text[-3000:]
    assert int(runs[1]) > 500
    assert taken, "hardly anything got past the checksums"
    assert int(last[2]) > int(first[2]), "nothing new was found: is anything instrumented?"
    return (
        f"{int(runs[1]):,} runs by atheris in {SECONDS} s, over {int(taken[-1]):,} of them taken; "
        f"{first[1]} to {last[1]} edges and {first[2]} to {last[2]} features of coverage; no crash"
    )


def by_chance(name, seconds):
    """Change inputs by chance for so many seconds."""
    target, pool, dice = TARGETS[name], list(inputs(name).values()), random.Random(7)
    until, runs, taken = time.monotonic() + seconds, 0, 0
    while time.monotonic() < until:
        body = target.mutated(dice.choice(pool), 16_384, runs, partial(spliced, dice=dice))
        runs, taken = runs + 1, taken + target.check(body)
        pool[dice.randrange(len(pool))] = body if dice.random() < 0.01 else dice.choice(pool)
    return f"{runs:,} runs by chance in {seconds:g} s, {taken:,} of them taken; no crash"


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_can_be_made_by_chance_where_there_is_no_atheris(name):
    assert re.match(r"[\d,]+ runs by chance in 0.5 s, [1-9]", by_chance(name, 0.5))
