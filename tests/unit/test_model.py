"""The page of the model quotes what `python -m benchmarks.model` prints; one row of it is worked out by hand."""

from pathlib import Path

import pytest

from benchmarks import model
from benchmarks.model import Assumptions, Deployment, storage_cost

PAGE = Path(__file__).parents[2] / "docs/performance/model.md"


def test_the_tables_of_the_page_are_those_that_the_script_prints(capsys):
    model.main(["--markdown"])
    tables = capsys.readouterr().out.strip().split("\n\n")
    assert len(tables) == 3
    page = PAGE.read_text()
    for table in tables:
        assert table in page, f"renew it with: python -m benchmarks.model --markdown\n{table}"


def test_ten_million_threads_worked_out_by_hand():
    """A fiftieth of them has one and a half sessions a day; the busiest hour has four times the average."""
    found = Deployment(10_000_000, Assumptions())
    assert found.sessions_a_month == pytest.approx(9_000_000)  # 10,000,000 x 0.02 x 1.5 x 30
    assert found.sessions == pytest.approx(13.8889, rel=1e-4)  # 300,000 / 86,400 x 4
    assert found.hydrates == pytest.approx(9.7222, rel=1e-4)  # 0.7 of them
    assert found.open == pytest.approx(4_166.67, rel=1e-4)  # x 300 s
    assert found.cached == pytest.approx(12_500)  # x 900 s
    assert found.object_bytes == 30_000  # 100 x 1,500 x 0.2
    assert found.s3_bytes == 300e9
    # A cached copy is 30,000 + 100 x 8 + 900 = 31,700 bytes; an open one 10 x (1,500 + 140) more.
    assert found.redis_bytes == pytest.approx(12_500 * 31_700 + 4_166.667 * 48_100, rel=1e-4)
    assert found.upserts == pytest.approx(13.8889 + 9.7222 + 4_166.667 / 60, rel=1e-4)
    # 28 ms, 0.14 for each open session, 0.07 for each cached copy
    assert found.sweep_seconds == pytest.approx(0.028 + 0.58333 + 0.875, rel=1e-4)
    # 13.9 x (6.7 + 3.4 + 40) ms is 0.70 s of each second, of which 0.6 are planned for
    assert found.flush_children == 2
    assert found.s3_storage_cost == pytest.approx(6.90)  # 300 GB x $0.023
    # 9,000,000 PUTs and 10,000 LISTs on each of 30 days at $5 a million, 6,300,000 GETs at $0.40
    assert found.s3_request_cost == pytest.approx(45 + 1.50 + 2.52)
    assert found.database_cost == pytest.approx(1.886)  # 8.2 GB x $0.23


def test_each_tier_of_storage_has_its_price():
    assert storage_cost(50_000) == pytest.approx(1_150)
    assert storage_cost(600_000) == pytest.approx(1_150 + 450_000 * 0.022 + 100_000 * 0.021)


def test_an_assumption_given_on_the_command_line_changes_the_table(capsys):
    model.main(["--markdown"])
    usual = capsys.readouterr().out
    model.main(["--markdown", "--linger-seconds", "90"])
    changed = capsys.readouterr().out
    assert "| cached copies | 12.5 | 125 |" in usual
    assert "| cached copies | 1.2 | 12.5 |" in changed


def test_a_reconcile_that_never_runs_costs_nothing():
    never = Deployment(10**9, Assumptions(reconcile_every=0))
    assert never.lists_a_month == 0
    assert never.s3_request_cost < Deployment(10**9, Assumptions()).s3_request_cost


def test_every_shown_quantity_is_finite_and_grows_with_the_number_of_threads():
    small, large = (Deployment(threads, Assumptions()) for threads in (10**6, 10**9))
    for name in model.ROWS:
        assert 0 <= getattr(small, name) <= getattr(large, name) < float("inf"), name
