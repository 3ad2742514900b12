"""The scrub and the reconcile as Celery runs them: in slices, once per period, with ids and numbers alone."""

import pytest

from tests.integration.damage import Vandal, flipped, make_thread
from tests.waiting import until
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.adoption import make_app
from threadkeep.tasks.conf import MAINTENANCE, recommended_conf
from threadkeep.tasks.task import ThreadTask


@pytest.fixture
def vandal(raw_bucket, settings):
    return Vandal(raw_bucket, settings.s3_bucket)


@pytest.fixture
def run(settings, stores, monkeypatch):
    """Runs a task here, as a worker would run a message of this id."""

    def task(name, run_id, **kwargs):
        tuned = settings.model_copy(update={"verify_every": 86400.0})
        app = make_app(tuned)
        monkeypatch.setattr(ThreadTask, "stores", property(lambda _: stores))
        app.loader.import_default_modules()
        return app.tasks[f"threadkeep.{name}"].apply(kwargs=kwargs, task_id=run_id, throw=True).result

    return task


def test_a_walk_that_takes_long_hands_the_rest_on_until_all_is_seen(keep, stores, vandal, settings, worker):
    refs = [make_thread(keep, stores, ["what it says"]) for _ in range(4)]
    last = list(stores.cold.scan())[-1][0]
    stored, body = stores.cold.get(last)
    vandal.write(stored, flipped(body, 60))
    started = worker(MAINTENANCE, app="tests.integration.slicing_app")
    app = make_app(settings, publisher=True)
    for name in ("verify_archives", "reconcile_catalog"):
        app.send_task(f"threadkeep.{name}", queue=MAINTENANCE)
    until(lambda: [event.kind for _, event in stores.catalog.events(last)] == ["corrupt"])
    until(lambda: started.log().count("threadkeep.verify_archives") >= 2 * len(refs))
    until(lambda: "'rows': 1" in started.log())
    assert "what it says" not in started.log()


def test_a_period_is_walked_once_under_any_number_of_beats(keep, stores, run):
    make_thread(keep, stores, ["one"])
    for name, counts in (("verify_archives", {"sound": 1}), ("reconcile_catalog", {"objects": 1, "rows": 1})):
        assert run(name, "beat-1") == counts
        assert run(name, "beat-2") == {"skipped": True}
        assert run(name, "beat-1") == counts  # delivered again
        assert run(name, "by hand", namespace="messages") == counts


def test_beat_sends_what_has_a_period(settings):
    schedule = recommended_conf(settings)["beat_schedule"]
    assert set(schedule) == {"threadkeep-sweep", "threadkeep-reconcile-catalog"}
    both = settings.model_copy(update={"verify_every": 3600.0, "reconcile_every": 0.0})
    schedule = recommended_conf(both)["beat_schedule"]
    assert set(schedule) == {"threadkeep-sweep", "threadkeep-verify-archives"}
    assert schedule["threadkeep-verify-archives"]["schedule"] == 900.0  # a beat that is restarted starts over


def test_claims_of_other_periods_and_other_work_are_their_own(stores):
    claim = stores.flow.claim
    assert [now(claim(work, slot, 60)) for work in ("verify", "reconcile") for slot in (1, 2, 1)] == [
        True,
        True,
        False,
    ] * 2
