"""A short run of the chaos test, with everything that a long one has: see `docs/how-to/run-the-chaos-test.md`."""

import os
import random

import pytest

from tests.chaos.picture import draw
from tests.chaos.report import report_of, show
from tests.chaos.run import run

SECONDS = 300 if os.environ.get("PROVE") == "1" else 42
LONGEST_PATIENCE = 900


@pytest.mark.timeout(LONGEST_PATIENCE)
def test_nothing_is_lost_or_doubled_while_everything_is_killed(tmp_path, record_property):
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    chaos = run(seed, SECONDS, tmp_path, print)
    report = report_of(chaos)
    show(report)
    draw(report, tmp_path / "report.png")
    assert chaos.violations == []
    record_property("proof", proof(report))
    assert report["messages"]["acknowledged"] > SECONDS
    assert report["tasks"]["flush_thread archived"] > SECONDS / 4
    assert report["tasks"]["hydrate_thread restored"] > SECONDS / 8
    assert (tmp_path / "report.png").stat().st_size > 10_000


def proof(report):
    return (
        f"{len(report['schedule'])} faults in {report['seconds']:.0f} s: "
        f"{report['messages']['acknowledged']:,} messages acknowledged in {report['threads']} threads, all there once; "
        f"{report['whole_threads_compared']:,} whole threads and {report['revisions_looked_at']:,} revisions compared; "
        f"at rest after {report['settled_in']:.1f} s (seed {report['seed']})"
    )
