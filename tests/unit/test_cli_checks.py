"""What `doctor` makes of facts: its verdicts need no server."""

import pytest

from threadkeep.cli.checks import (
    broker_policy,
    judge_bucket,
    judge_policy,
    judge_replicas,
    judge_version,
    persistence,
)
from threadkeep.errors import StoreRefused
from threadkeep.storage.hot_facts import RedisFacts
from threadkeep.storage.ports import ColdFacts


def facts(**given):
    usual = {"server": "redis", "version": "7.2.4", "policy": "noeviction", "max_memory": 10**9, "used_memory": 10**6}
    return RedisFacts(**{**usual, "append_only": True, "cluster": False, **given})


@pytest.mark.parametrize(
    ("policy", "hot", "broker"),
    [
        ("noeviction", "ok", "ok"),
        ("volatile-lru", "ok", "ok"),
        ("allkeys-lru", "warning", "failed"),
        ("allkeys-lfu", "warning", "failed"),
        (None, "ok", "ok"),
    ],
)
def test_a_policy_that_takes_keys_without_expiry_is_named(policy, hot, broker):
    assert judge_policy(facts(policy=policy)).verdict == hot
    assert broker_policy(facts(policy=policy)).verdict == broker
    assert (judge_policy(facts(policy=policy)).remedy == "") == (hot == "ok")


@pytest.mark.parametrize(
    ("server", "version", "verdict"),
    [("redis", "6.0.9", "failed"), ("redis", "6.2.0", "ok"), ("redis", "10.0", "ok"), ("valkey", "7.2.5", "ok")],
)
def test_a_server_without_the_commands_that_are_used_is_refused(server, version, verdict):
    assert judge_version(facts(server=server, version=version)).verdict == verdict


@pytest.mark.parametrize(("alone", "verdict", "found"), [(0, "ok", "3 primaries, each"), (2, "warning", "2 of 3")])
def test_a_primary_without_a_replica_is_warned_about(alone, verdict, found):
    check = judge_replicas(facts(cluster=True, primaries=3, alone=alone))
    assert check.verdict == verdict
    assert check.found.startswith(found)


def test_without_an_append_only_file_it_says_what_a_restart_loses():
    found = persistence("Redis", facts(append_only=False), "what is newer than the last flush")
    assert found.verdict == "warning"
    assert "loses what is newer than the last flush" in found.found
    assert "appendonly" in found.remedy


WELL = ColdFacts(
    reachable=True, bucket=True, writable=True, conditional_create=True, conditional_replace=True, versioned=False
)


@pytest.mark.parametrize(
    ("bucket", "conditional", "verdicts", "remedy"),
    [
        (WELL, True, ["ok", "ok"], ""),
        (WELL, False, ["ok", "ok"], ""),
        (ColdFacts(reachable=False, problem="no route"), True, ["failed"], "THREADKEEP_S3_ENDPOINT"),
        (ColdFacts(reachable=True, bucket=False, problem="NoSuchBucket"), True, ["failed"], "bucket books"),
        (
            ColdFacts(
                reachable=True, bucket=False, problem=str(StoreRefused("S3", "HeadBucket", "403", "Check keys."))
            ),
            True,
            ["failed"],
            "Check keys.",
        ),
        (ColdFacts(reachable=True, bucket=True, writable=False, problem="denied"), True, ["failed"], "s3:PutObject"),
        (
            ColdFacts(reachable=True, bucket=True, writable=True, conditional_create=True, conditional_replace=False),
            True,
            ["ok", "failed"],
            "THREADKEEP_CONDITIONAL_WRITES=off",
        ),
        (
            ColdFacts(reachable=True, bucket=True, writable=True, conditional_create=False, conditional_replace=False),
            False,
            ["ok", "ok"],
            "",
        ),
    ],
)
def test_what_a_bucket_lacks_is_named_with_what_to_do(bucket, conditional, verdicts, remedy):
    found = list(judge_bucket(bucket, bucket="books", conditional=conditional))
    assert [one.verdict for one in found] == verdicts
    assert remedy in found[-1].remedy
