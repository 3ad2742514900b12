"""A receipt outlives releases: what an earlier or a later one wrote can be read."""

import json

from threadkeep.tasks.receipt import FromBucket, FromRedis, Receipt

FULL = Receipt(
    "erased",
    "c41d",
    rev=7,
    redis=FromRedis(thread=True, rev=6, messages=3),
    s3=FromBucket(object=True, versions=4, v1=1, conflicts=2, tombstone="threads/messages/t.ndjson.zst"),
    catalog=True,
    forks=["copy", "acme/other"],
)


def test_a_receipt_comes_back_as_it_was():
    assert Receipt.from_json(FULL.to_json()) == FULL
    assert Receipt.from_facts(FULL.facts()) == FULL
    assert Receipt.from_json(Receipt("spared", "c41d").to_json()) == Receipt("spared", "c41d")


def test_a_receipt_of_the_first_release_tells_what_it_knew():
    facts = {"outcome": "erased", "request": "r", "rev": 9, "versions": 5, "conflicts": 1, "forks": ["f"]}
    old = Receipt.from_json(json.dumps({**facts, "catalog": False}))
    assert old == Receipt("erased", "r", 9, s3=FromBucket(versions=5, conflicts=1), forks=["f"])


def test_what_a_later_release_adds_is_passed_over():
    facts = FULL.facts() | {"witness": "x", "s3": {**FULL.facts()["s3"], "replicas": 2}}
    assert Receipt.from_json(json.dumps(facts)) == FULL


def test_a_receipt_tells_numbers_keys_and_addresses_alone():
    def leaves(value):
        if isinstance(value, dict):
            return [leaf for inner in value.values() for leaf in leaves(inner)]
        return [value] if not isinstance(value, list) else value

    told = [leaf for leaf in leaves(FULL.facts()) if isinstance(leaf, str)]
    assert told == ["erased", "c41d", "threads/messages/t.ndjson.zst", "copy", "acme/other"]
