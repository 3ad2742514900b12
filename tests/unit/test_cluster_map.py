"""Where the slots of a cluster are, as its servers and its URL tell."""

import pytest

from threadkeep.storage.cluster import key_of, primaries, seeds, server_url


def test_a_url_names_one_server_or_several():
    assert seeds("redis://h:1/0") == ["redis://h:1/0"]
    assert seeds("rediss://u:p%2C@a:1,b:2,[::1]:3?ssl_cert_reqs=none") == [
        f"rediss://u:p%2C@{server}?ssl_cert_reqs=none" for server in ("a:1", "b:2", "[::1]:3")
    ]


@pytest.mark.parametrize(
    ("host", "told"),
    [("10.0.0.9", "10.0.0.9"), ("node.example", "node.example"), ("::1", "[::1]"), ("", "seed.example")],
)
def test_another_server_is_reached_as_the_first_one_is(host, told):
    url = "rediss://u:p@seed.example:6379/0?ssl_ca_certs=/ca.pem"
    assert server_url(url, host, 7001) == f"rediss://u:p@{told}:7001/0?ssl_ca_certs=/ca.pem"


def test_every_slot_has_the_primary_that_the_servers_tell_and_the_others_none():
    replica = [b"10.0.0.3", 1, b"id", []]
    table = primaries(
        [[0, 5460, [b"10.0.0.1", 1, b"id", []], replica], [5461, 10922, [None, 2, b"id", []]]], asked="redis://a:9"
    )
    assert len(table) == 16384
    assert set(table[:5461]) == {"redis://10.0.0.1:1"}
    assert set(table[5461:10923]) == {"redis://a:2"}
    assert set(table[10923:]) == {None}


def test_a_command_belongs_where_its_key_is():
    assert key_of(("HGET", "{s0001}a", "f")) == "{s0001}a"
    assert key_of(("MEMORY", "USAGE", "{s0001}a", "SAMPLES", 0)) == "{s0001}a"
