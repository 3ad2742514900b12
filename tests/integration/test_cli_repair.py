"""`verify` and `catalog` as processes of their own, on archives damaged on purpose."""

from functools import partial

import pytest

from tests.integration.command import SECRET, run_command
from tests.integration.damage import Vandal, flipped, make_thread
from threadkeep.storage.link import run_now as now
from threadkeep.storage.migrations import remake


@pytest.fixture
def cli(settings):
    """Runs a command with this test's settings."""
    return partial(run_command, settings)


@pytest.fixture
def vandal(raw_bucket, settings):
    return Vandal(raw_bucket, settings.s3_bucket)


@pytest.fixture
def make(keep, stores):
    return lambda mode="evict": make_thread(keep, stores, [SECRET, "more"], mode)


def test_verify_names_what_is_damaged_and_repairs_it_without_broker_or_worker(cli, make, stores, vandal):
    _, cached, lost = make(), make("linger"), make()
    for ref in (cached, lost):
        stored, body = stores.cold.get(ref)
        vandal.write(stored, flipped(body, 60))
    named = cli("verify")
    assert (named.code, named.err) == (1, "")
    assert named.out.startswith("Read: corrupt 2, sound 1.\n")
    assert "--repair" in named.out
    assert SECRET not in named.out
    mended = cli("verify", "--repair", "--json", THREADKEEP_BROKER_URL="redis://127.0.0.1:1")
    assert (mended.code, mended.json["counts"]) == (1, {"sound": 2, "corrupt": 1, "repaired": 1})
    by_id = {one["id"]: one for one in mended.json["threads"]}
    assert {one: told["now"] for one, told in by_id.items()} == {cached.thread_id: "sound", lost.thread_id: "corrupt"}
    assert by_id[cached.thread_id]["repaired"]["how"] == "redis"
    assert by_id[cached.thread_id]["repaired"]["aside"].startswith(f"{stores.settings.s3_prefix}/conflicts/messages/")
    assert not now(stores.hot.look(cached)).head.dirty


def test_verify_takes_ids_of_a_namespace_and_refuses_what_is_nowhere(cli, make):
    ref = make()
    assert cli("verify", ref.thread_id, "-n", "messages").out == "Read: sound 1.\n"
    nowhere = cli("verify", ref.thread_id, "nowhere")
    assert (nowhere.code, nowhere.out) == (3, "")
    assert nowhere.err == "threadkeep: thread nowhere is neither in Redis nor in the archive\n"


def test_reconcile_says_what_it_set_right_and_what_is_amiss(cli, make, stores, vandal):
    _, gone = make(), make()
    vandal.remove(stores.cold.head(gone))
    missing = cli("catalog", "reconcile", "--json")
    assert (missing.code, missing.json) == (1, {"objects": 1, "rows": 2, "missing": 1})
    elsewhere = cli("catalog", "reconcile", "-n", "elsewhere")
    assert (elsewhere.code, elsewhere.out) == (0, "Compared: nothing is archived.\n")


def test_rebuild_makes_tables_and_rows_anew(cli, make, stores, settings, vandal):
    refs = [make() for _ in range(3)]
    rows = stores.catalog.get_many(refs)
    try:
        drop_tables(settings)
        rebuilt = cli("catalog", "rebuild")
        assert (rebuilt.code, rebuilt.err) == (0, "")
        assert rebuilt.out == "Read 3 objects: wrote 3 archived threads, 0 erased ones, and 0 hot ones.\n"
    finally:
        remake(settings)
    assert {ref: entry.stat for ref, entry in stores.catalog.get_many(refs).items()} == {
        ref: entry.stat for ref, entry in rows.items()
    }
    stored, body = stores.cold.get(refs[0])
    vandal.write(stored, flipped(body, 60))
    damaged = cli("catalog", "rebuild", "--json", "-c", 2)
    assert (damaged.code, damaged.json["rows"], damaged.json["problems"][0]["verdict"]) == (1, 3, "corrupt")


def drop_tables(settings):
    from sqlalchemy import create_engine, text

    from threadkeep.storage.catalog_schema import metadata

    engine = create_engine(settings.database_url.get_secret_value())
    with engine.begin() as connection:
        connection.execute(text(f"DROP TABLE {', '.join(table.name for table in metadata.sorted_tables)}"))
    engine.dispose()
