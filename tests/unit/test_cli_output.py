"""What the commands make of values before they show them."""

import pytest
import typer

from threadkeep.cli.exits import exit_code
from threadkeep.cli.options import parse_age, parse_label
from threadkeep.cli.output import duration, size, visible
from threadkeep.cli.up import told_variables
from threadkeep.cli.workers import QueueName, worker_command, worker_environment
from threadkeep.config import Settings
from threadkeep.errors import (
    ArchiveCorrupt,
    BrokerUnavailable,
    FlushTimeout,
    InvalidThreadId,
    SettingsError,
    StoreRefused,
    StoreUnavailable,
    ThreadNotFound,
)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (12_345, "12.3 kB"),
        (999_999, "1.0 MB"),
        (5_000_000_000, "5.0 GB"),
        (7e12, "7.0 TB"),
    ],
)
def test_bytes_are_shown_in_powers_of_a_thousand(count, text):
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.004, "4 ms"), (0.32, "0.32 s"), (12.5, "12 s"), (300, "5 min"), (5 * 3600, "5 h"), (12 * 86400, "12 d")],
)
def test_durations_are_shown_in_the_unit_that_fits(seconds, text):
    assert duration(seconds) == text


def test_what_a_terminal_would_obey_is_made_visible():
    assert visible("a\x1b[31mb\x07\r\n\tc") == "a\\x1b[31mb\\x07\\x0d\n\tc"
    assert visible("\u202ereversed") == "\\u202ereversed"
    assert visible("half \ud83d") == "half \\ud83d"
    assert visible("👩\u200d👧 ok") == "👩\u200d👧 ok"


def test_ages_and_labels_are_parsed_or_refused_with_an_example():
    assert [parse_age(text) for text in ("90s", "15m", "12h", "7d", "2w", "0.5h")] == [
        90, 900, 43_200, 604_800, 1_209_600, 1800,
    ]  # fmt: skip
    assert parse_label("tenant=acme=1") == ("tenant", "acme=1")
    for wrong in ("7", "d", "-1d", "7 days"):
        with pytest.raises(typer.BadParameter, match="7d"):
            parse_age(wrong)
    with pytest.raises(typer.BadParameter, match="name=value"):
        parse_label("tenant")


def test_errors_end_with_the_documented_codes():
    codes = {
        ThreadNotFound("t"): 3,
        InvalidThreadId("id", "''", "must not be empty"): 2,
        SettingsError("x"): 2,
        StoreUnavailable("S3", "get", "gone"): 4,
        BrokerUnavailable("t", "gone"): 4,
        FlushTimeout("t", 1): 4,
        StoreRefused("S3", "get", "no", "Do."): 1,
        ArchiveCorrupt("t", "k", "torn"): 1,
    }
    assert {error: exit_code(error) for error in codes} == codes


def test_env_tells_only_what_differs_from_the_defaults():
    settings = Settings(s3_bucket="other-bucket", s3_access_key="k", s3_secret_key="s")
    assert told_variables(settings.to_environ()) == {
        "THREADKEEP_S3_ACCESS_KEY": "k",
        "THREADKEEP_S3_BUCKET": "other-bucket",
        "THREADKEEP_S3_SECRET_KEY": "s",
    }


def test_a_worker_is_named_for_its_queues_and_passes_on_what_is_celerys():
    queues = [QueueName.FLUSH, QueueName.MAINTENANCE]
    command = worker_command(queues, name=None, concurrency=3, extra=["--max-tasks-per-child", "5"])
    assert command[1:5] == ["-m", "celery", "-A", "threadkeep.tasks.app"]
    assert {"--hostname=flush-maintenance@%h", "--queues=threadkeep.flush,threadkeep.maintenance"} <= set(command)
    assert command[-4:] == ["-E", "--loglevel=INFO", "--max-tasks-per-child", "5"]
    assert not any("concurrency" in part for part in worker_command(queues, name="a", concurrency=None, extra=[]))


def test_sigterm_means_a_soft_shutdown_unless_the_operator_says_otherwise():
    assert worker_environment({"A": "b"}) == {"A": "b", "REMAP_SIGTERM": "SIGQUIT"}
    assert worker_environment({"REMAP_SIGTERM": ""})["REMAP_SIGTERM"] == ""
