"""Threadkeep's tasks in a user's own Celery app."""

from tests.celery.acts import user
from tests.celery.worker_log import outcomes
from tests.waiting import until
from threadkeep import Threadkeep
from threadkeep.tasks.conf import FLUSH, HYDRATE, MAINTENANCE, recommended_conf


def test_a_users_worker_runs_its_own_tasks_and_ours(settings, user_app, start_worker):
    queues = ["shop", "shop.slow", HYDRATE, FLUSH, MAINTENANCE]
    worker = start_worker(*queues, app="tests.celery.user_app")
    with Threadkeep(settings, celery=user_app) as keep:
        with keep.new(wait_flush=30) as session:
            session.append(user("hello"))
        keep.flush(session.id, wait=30)
        assert keep.read(session.id).messages == [user("hello")]
    user_app.send_task("shop.total", [[1, 2, 3]])
    user_app.send_task("shop.report", ["sold out"])
    user_app.send_task("threadkeep.sweep")
    until(lambda: ": 6\n" in worker.logs() and "'SOLD OUT'" in worker.logs())
    until(lambda: "threadkeep.sweep" in worker.logs().partition("ready.")[2])
    assert "archived" in outcomes(worker.logs(), "flush_thread")


def test_adopting_adds_and_changes_nothing_else(settings, user_app):
    conf = user_app.conf
    assert [queue.name for queue in conf.task_queues] == ["shop", "shop.slow", HYDRATE, FLUSH, MAINTENANCE]
    assert conf.task_default_queue == "shop"
    assert conf.task_routes["shop.report"] == {"queue": "shop.slow"}
    assert conf.task_routes["threadkeep.flush_thread"] == {"queue": FLUSH}
    assert conf.task_annotations["shop.total"] == {"rate_limit": "100/s"}
    assert set(conf.beat_schedule) == {"report", *recommended_conf(settings)["beat_schedule"]}
    task = user_app.tasks["threadkeep.flush_thread"]
    assert (task.soft_time_limit, task.time_limit) == (settings.soft_time_limit, settings.hard_time_limit)
