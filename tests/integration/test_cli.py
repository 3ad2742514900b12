"""The commands as processes of their own, against real servers with a real worker."""

import gzip
import json
import os
import re
from functools import partial

import pytest

from tests.integration.command import SECRET, lines, run_command
from tests.integration.protocol import user
from tests.waiting import until


@pytest.fixture
def cli(settings):
    """Runs a command with this test's settings."""
    return partial(run_command, settings)


def make_cold(keep, thread_id="cold", *messages, **given):
    with keep.new(thread_id, **given) as session:
        session.append(*(messages or [user(SECRET)]))
    namespace = given.get("namespace")
    keep.flush(thread_id, wait=20, namespace=namespace)
    until(lambda: not keep.stat(thread_id, namespace=namespace).cached)  # archived is not yet evicted


# --- reading --------------------------------------------------------------------------------------------------------


def test_a_cold_thread_is_shown_from_s3_and_stays_cold(cli, keep, worker):
    worker()
    make_cold(keep, "t", user(SECRET), {"role": "assistant", "content": "I see"})
    shown = cli("show", "t")
    assert (shown.code, shown.err) == (0, "")
    assert SECRET in shown.out
    assert "from S3" in shown.out
    assert not keep.stat("t").cached


def test_a_hot_thread_is_shown_from_redis_while_a_session_writes_it(cli, keep):
    with keep.new(state={"step": 1}) as session:
        ids = session.append(*[user(str(n)) for n in range(5)])
        shown = cli("show", session.id, "--last", 2, "--json")
        assert [line["id"] for line in shown.lines] == ids[3:]
        assert shown.lines[0]["body"] == user("3")
        assert "newer than its archive" in cli("show", session.id).out
        session.append(user("still mine"))


def test_show_can_be_held_to_the_archive_when_redis_is_away(cli, keep, worker):
    worker()
    make_cold(keep, "t")
    nowhere = {"THREADKEEP_REDIS_URL": "redis://127.0.0.1:1"}
    assert SECRET in cli("show", "t", "--archived", **nowhere).out
    assert cli("show", "t", **nowhere).code == 4


def test_what_a_message_says_cannot_steer_the_terminal(cli, keep):
    with keep.new() as session:
        session.append(user("\x1b[2J[red]no markup[/red] \ud83d"))
    shown = cli("show", session.id).out
    assert "\x1b" not in shown
    assert "\\x1b[2J[red]no markup[/red] \\ud83d" in shown


def test_ls_filters_and_pages(cli, keep, worker):
    worker()
    for n in range(5):
        make_cold(keep, f"t{n}", labels={"tenant": "acme" if n < 3 else "other"})
    make_cold(keep, "elsewhere/é", namespace="other space")
    assert [line["id"] for line in cli("ls", "--json", "--label", "tenant=acme").lines] == ["t0", "t1", "t2"]
    assert [line["id"] for line in cli("ls", "--json", "-n", "other space").lines] == ["elsewhere/é"]
    assert cli("ls", "--json", "--tier", "hot").lines == []
    assert cli("ls", "--json", "--idle", "1h").lines == []
    assert [line["id"] for line in cli("ls", "--json", "--prefix", "t").lines] == [f"t{n}" for n in range(5)]
    found, after = [], []
    while page := cli("ls", "--json", "--limit", 2, *after).lines:
        found += [line["id"] for line in page]
        after = ["--after", page[-1]["address"]]
    assert found == ["t0", "t1", "t2", "t3", "t4", "elsewhere/é"]
    table = cli("ls", "--limit", 2).out
    assert "t0" in table
    assert "--after messages/t1" in table


def test_no_command_but_show_and_export_tells_what_messages_say(cli, keep, worker):
    worker()
    make_cold(keep, "t")
    told = [cli(*command) for command in (["ls"], ["ls", "--json"], ["status"], ["doctor"], ["--debug", "flush", "t"])]
    assert not [ran for ran in told if SECRET in ran.out + ran.err]


# --- moving ---------------------------------------------------------------------------------------------------------


def test_flush_and_hydrate_move_a_thread_and_say_where_it_is(cli, keep, worker):
    worker()
    with keep.new("t") as session:
        session.append(user(SECRET))
        flushed = cli("flush", "t", "--wait", 20)
        assert (flushed.code, "in use" in flushed.out) == (0, True)
    assert "gone from Redis" in cli("flush", "t", "--wait", 20).out + cli("flush", "t").out
    assert "is cold" in cli("flush", "t").out
    assert "is in Redis" in cli("hydrate", "t", "--wait", 20).out
    assert "in Redis already" in cli("hydrate", "t").out
    assert keep.stat("t").cached


def test_a_thread_that_was_set_aside_is_flushed_by_force(cli, keep, settings, worker):
    with keep.new() as session:
        session.append(user(SECRET))
    thread = session.id
    hurt(keep, thread, settings.poison_after)
    worker()
    refused = cli("flush", thread, "--wait", 5)
    assert refused.code == 1
    assert re.search(r"set aside after \d runs of flush that died", refused.err)
    assert f"threadkeep flush {thread} --force" in refused.err
    assert f"set aside: {thread}, after" in cli("status").out
    forced = cli("flush", thread, "--force", "--wait", 20)
    assert (forced.code, keep.stat(thread).dirty) == (0, False)


def test_a_thread_that_is_nowhere_ends_with_code_3(cli, worker):
    worker()
    commands = [["show"], ["export"], ["flush"], ["hydrate", "--wait", 10], ["erase", "--yes"]]
    ran = {command[0]: cli(command[0], "nowhere", *command[1:]) for command in commands}
    assert {name: one.code for name, one in ran.items()} == dict.fromkeys(ran, 3)
    assert {one.err for one in ran.values()} == {"threadkeep: thread nowhere is neither in Redis nor in the archive\n"}


def test_erase_asks_and_then_removes_everywhere(cli, keep, worker):
    worker()
    make_cold(keep, "t")
    with keep.fork("t", id="copy"):
        pass
    keep.flush("copy", wait=20)
    unasked = cli("erase", "t")
    assert (unasked.code, "--yes" in unasked.err) == (2, True)
    erased = cli("erase", "t", "--yes", "--wait", 20)
    assert erased.code == 0
    assert "Forked from it, and kept: copy" in erased.out
    assert cli("show", "t").code == 3
    assert [line["id"] for line in cli("ls", "--json", "--tier", "erased").lines] == ["t"]


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_conversation_is_imported_whole_and_exported_as_it_was(cli, worker, tmp_path):
    worker()
    body = lines(user("one"), {"role": "assistant", "content": "two"})
    made = cli("import", "-", "--id", "t", "-l", "tenant=acme", "--wait", 20, stdin=body)
    assert (made.code, made.err) == (0, "")
    exported = cli("export", "t")
    assert [line["body"] for line in exported.lines] == [json.loads(line) for line in body.splitlines()]
    (tmp_path / "t.jsonl").write_text(exported.out)
    assert cli("import", tmp_path / "t.jsonl", "--id", "again").code == 0
    assert cli("export", "again").out == exported.out
    assert [line["id"] for line in cli("ls", "--json", "--label", "tenant=acme").lines] == ["t"]


def test_an_archive_carries_state_labels_and_its_own_address(cli, keep, worker, tmp_path):
    worker()
    make_cold(keep, "t", state={"step": 3}, labels={"a": "b"}, namespace="acme")
    with keep.open("t", namespace="acme") as session:
        session.append(user("newer, and not archived"), id="tail")
    file = tmp_path / "t.ndjson.zst"
    assert cli("export", "t", "-n", "acme", "-f", "archive", "-o", file).code == 0
    before = cli("export", "t", "-n", "acme").out
    taken = cli("import", file)
    assert (taken.code, "acme/t exists already" in taken.err) == (1, True)
    keep.delete("t", namespace="acme", wait=20)
    assert cli("import", file, "--wait", 20).code == 0
    assert cli("export", "t", "-n", "acme").out == before
    with keep.open("t", namespace="acme") as session:
        assert (session.state, session.labels) == ({"step": 3}, {"a": "b"})


def test_zeitlichs_snapshots_come_and_go_unchanged(cli, worker, tmp_path):
    worker()
    snapshot = {
        "v": 1,
        "messages": ['{"id":"a","message":{"role":"user","content":"\\ud83d"}}', "no json", '{"n":9007199254740993}'],
        "state": {"tasks": {"x": 1}},
        "dedupIds": ["a", "b", "c"],
    }
    (tmp_path / "in.json.gz").write_bytes(gzip.compress(json.dumps(snapshot).encode()))
    assert cli("import", tmp_path / "in.json.gz", "--id", "t").code == 0
    assert json.loads(cli("export", "t", "-f", "v1").out) == snapshot
    cli("flush", "t", "--wait", 20)
    assert cli("export", "t", "--format", "v1", "--output", tmp_path / "out.json.gz").code == 0
    assert json.loads(gzip.decompress((tmp_path / "out.json.gz").read_bytes())) == snapshot


@pytest.mark.parametrize(
    ("body", "code", "problem"),
    [
        ('{"a":1}\n{"b":\n', 1, "stdin, line 2: it is no JSON"),
        ("", 1, "holds no messages"),
        (lines({"v": 1, "id": "x", "kind": "robot", "fmt": "plain", "body": 1, "meta": {}}), 1, "kind"),
        (lines("x" * 2000), 1, "THREADKEEP_MAX_MESSAGE_BYTES"),
    ],
)
def test_a_file_that_cannot_be_kept_leaves_nothing_behind(cli, body, code, problem):
    ran = cli("import", "-", stdin=body, THREADKEEP_MAX_MESSAGE_BYTES="1000")
    assert (ran.code, ran.out) == (code, "")
    assert problem in ran.err
    assert cli("status", "--json").json["hot"]["indexed"] == 0


# --- operations -----------------------------------------------------------------------------------------------------


def test_status_counts_what_is_where(cli, keep, worker):
    started = worker()
    make_cold(keep, "cold")
    started.stop()
    with keep.new() as session:
        session.append(user(SECRET))
    assert "hot" in cli("sweep", "--force").out
    told = cli("status", "--json").json
    assert {tier: (total["threads"], total["messages"]) for tier, total in told["tiers"].items()} == {
        "hot": (1, 1),
        "cold": (1, 1),
    }
    assert (told["hot"]["dirty"], told["hot"]["oldest_dirty_thread"]) == (1, session.id)
    assert told["queues"]["threadkeep.flush"] == 1
    assert told["problems"] == {}
    assert f"Oldest dirty thread: {session.id}" in cli("status").out


@pytest.mark.parametrize(
    ("away", "part", "store"),
    [
        ({"THREADKEEP_REDIS_URL": "redis://127.0.0.1:1"}, "hot", "Redis"),
        ({"THREADKEEP_BROKER_URL": "redis://127.0.0.1:1"}, "queues", "broker"),
        ({"THREADKEEP_BROKER_URL": "amqp://127.0.0.1:1"}, "queues", "broker"),
        ({"THREADKEEP_DATABASE_URL": "postgresql://127.0.0.1:1/x"}, "tiers", "catalog"),
    ],
)
def test_status_tells_the_rest_when_a_store_is_down(cli, away, part, store):
    ran = cli("status", "--json", **away)
    assert ran.code == 4
    assert list(ran.json["problems"]) == [part]
    assert [name for name in ("tiers", "hot", "queues") if ran.json[name] is None] == [part]
    assert f"✗ {store}: " in cli("status", **away).out


def test_doctor_finds_a_sound_deployment_sound(cli, worker):
    worker()
    cli("sweep")
    ran = cli("doctor")
    assert (ran.code, "All is well." in ran.out, "✗" in ran.out) == (0, True, False)
    checks = cli("doctor", "--json").json
    assert checks["ok"]
    assert {one["verdict"] for one in checks["checks"]} == {"ok"}


@pytest.mark.parametrize(
    ("wrong", "subject", "remedy"),
    [
        ({"THREADKEEP_S3_SECRET_KEY": "wrong"}, "S3", "THREADKEEP_S3_"),
        ({"THREADKEEP_S3_BUCKET": "no-such-bucket"}, "S3", "THREADKEEP_S3_BUCKET"),
        (
            {"THREADKEEP_S3_ENDPOINT": "http://127.0.0.1:1", "THREADKEEP_S3_ATTEMPTS": "1"},
            "S3",
            "THREADKEEP_S3_ENDPOINT",
        ),
        ({"THREADKEEP_REDIS_URL": "redis://127.0.0.1:1"}, "Redis", "THREADKEEP_REDIS_URL"),
        ({"THREADKEEP_BROKER_URL": "redis://127.0.0.1:1"}, "broker", "THREADKEEP_BROKER_URL"),
        ({"THREADKEEP_DATABASE_URL": "postgresql://127.0.0.1:1/x"}, "catalog", "THREADKEEP_DATABASE_URL"),
    ],
)
def test_doctor_names_what_is_wrong_and_what_to_do(cli, wrong, subject, remedy):
    ran = cli("doctor", "--json", **wrong)
    assert (ran.code, ran.json["ok"]) == (1, False)
    failed = {one["subject"]: one for one in ran.json["checks"] if one["verdict"] == "failed"}
    assert remedy in failed[subject]["remedy"]
    others = {"S3", "Redis", "broker", "catalog"} - {subject}
    assert not others & failed.keys()


def test_doctor_and_db_find_missing_tables(cli, postgres_server):
    from sqlalchemy import create_engine, text

    engine = create_engine(postgres_server.url(), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("DROP DATABASE IF EXISTS untold"))
        connection.execute(text("CREATE DATABASE untold ENCODING 'UTF8' TEMPLATE template0"))
    url = {"THREADKEEP_DATABASE_URL": engine.url.set(database="untold").render_as_string(hide_password=False)}
    engine.dispose()
    missing = cli("db", "status", "--json", **url)
    assert (missing.code, len(missing.json["pending"]) >= 1) == (1, True)
    failed = [one for one in cli("doctor", "--json", **url).json["checks"] if one["subject"] == "catalog"]
    assert [one["remedy"] for one in failed] == ["Run: threadkeep db upgrade"]
    assert "Applied 0001" in cli("db", "upgrade", **url).out
    assert (cli("db", "status", **url).out, cli("db", "upgrade", **url).code) == ("Up to date.\n", 0)


def test_doctor_says_that_nobody_reads_a_queue(cli, worker):
    worker("threadkeep.flush", name="flush")
    checks = {one["subject"]: one["verdict"] for one in cli("doctor", "--json").json["checks"]}
    assert {name: checks[f"workers: {name}"] for name in ("hydrate", "flush", "maintenance")} == {
        "hydrate": "failed",
        "flush": "ok",
        "maintenance": "failed",
    }


def test_doctor_checks_an_app_of_ones_own(cli, tmp_path):
    (tmp_path / "own_app.py").write_text(
        "from celery import Celery\n"
        "app = Celery('own', broker='redis://127.0.0.1:1', set_as_current=False)\n"
        "app.conf.accept_content = ['pickle']\n"
    )
    ran = cli(
        "doctor", "--json", "--app", "own_app", PYTHONPATH=f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    )
    found = [one["found"] for one in ran.json["checks"] if one["subject"] == "Celery app own_app"]
    assert any("pickl" in problem for problem in found)
    assert any("visibility_timeout" in problem or "socket_timeout" in problem for problem in found)
    absent = cli("doctor", "--app", "no_such_module")
    assert (absent.code, "no_such_module" in absent.err) == (2, True)


def test_wrong_usage_and_wrong_settings_end_with_code_2(cli):
    assert cli("ls", "--idle", "soon").code == 2
    assert cli("nonsense").code == 2
    wrong = cli("ls", THREADKEEP_LEASE_SECONDS="long")
    assert (wrong.code, "THREADKEEP_LEASE_SECONDS" in wrong.err) == (2, True)
    control = cli("show", "a\x07b")
    assert (control.code, "control character" in control.err) == (2, True)


def test_a_flush_that_nobody_does_ends_with_code_4(cli, keep):
    with keep.new() as session:
        session.append(user(SECRET))
    ran = cli("flush", session.id, "--wait", 1)
    assert (ran.code, "safe in Redis" in ran.err) == (4, True)


def hurt(keep, thread_id, deaths):
    """As if so many flushes had taken their worker with them."""
    from threadkeep.model import ThreadRef
    from threadkeep.storage.link import run_now

    ref = ThreadRef.of(thread_id)
    hot = keep._threads.hot
    run_now(hot.link.run("HSET", hot.keys(ref).tries, f"flush|{ref.member}", f"{deaths} task-1 0"))
