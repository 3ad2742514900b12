"""Threadkeep's tasks in a user's own Celery app, and that the app stays the user's."""

import os
import subprocess
import sys

import celery._state
import pytest
from celery import Celery
from kombu import Exchange, Queue

from tests.celery.user_app import make_user_app
from tests.celery.worker_log import outcomes
from tests.waiting import until
from threadkeep import Threadkeep
from threadkeep.config import Settings
from threadkeep.tasks.adoption import make_app
from threadkeep.tasks.conf import FLUSH, HYDRATE, MAINTENANCE, check
from threadkeep.tasks.inspect import queue_depths

STAYS_THE_USERS = """
import sys
import celery
from celery import Celery, shared_task
from threadkeep.config import Settings

settings = Settings.load(broker_url="redis://127.0.0.1:1/0", redis_url="redis://127.0.0.1:1/0")

def use_threadkeep():
    from threadkeep import AsyncThreadkeep, Threadkeep
    import threadkeep.tasks
    Threadkeep(settings)
    AsyncThreadkeep(settings)

if sys.argv[1] == "before":
    use_threadkeep()
app = Celery("shop")
if sys.argv[1] == "after":
    use_threadkeep()

@shared_task
def report(): ...

assert celery.current_app._get_current_object() is app
assert report.app is app
assert "threadkeep.flush_thread" in app.tasks
"""


def user(text):
    return {"role": "user", "content": text}


@pytest.fixture
def user_app(settings):
    before = celery._state.get_current_app()
    app = make_user_app(settings)
    yield app
    celery._state._set_current_app(before)
    app.close()


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
    assert set(conf.beat_schedule) == {"report", "threadkeep-sweep"}
    task = user_app.tasks["threadkeep.flush_thread"]
    assert (task.soft_time_limit, task.time_limit) == (settings.soft_time_limit, settings.hard_time_limit)


def test_requests_are_published_through_the_users_app(settings, user_app, app):
    user_app.conf.broker_transport_options = {
        **user_app.conf.broker_transport_options,
        "global_keyprefix": f"{settings.broker_prefix}shop:",
    }
    with Threadkeep(settings, celery=user_app) as keep, keep.new() as session:
        session.append(user("hello"))
    assert session.flush_enqueued
    assert queue_depths(user_app)[FLUSH] == 1
    assert queue_depths(app)[FLUSH] == 0


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_users_app_stays_the_current_one(when, pytestconfig):
    environment = {**os.environ, "PYTHONPATH": str(pytestconfig.rootpath)}
    subprocess.run([sys.executable, "-W", "error", "-c", STAYS_THE_USERS, when], env=environment, check=True)


SOUND = Settings.load(broker_url="redis://127.0.0.1:1/0")
RABBIT = Settings.load(broker_url="amqp://127.0.0.1:1//")


@pytest.mark.parametrize("settings", [SOUND, RABBIT], ids=["redis", "rabbitmq"])
class TestCheckIsSilent:
    def test_about_our_own_app(self, settings):
        assert check(make_app(settings)) == []

    def test_about_an_adopted_app_with_the_recommended_configuration(self, user_app):
        assert check(user_app) == []


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"broker_transport_options": {"visibility_timeout": 30}}, "visibility_timeout is below 240 s"),
        ({"broker_transport_options": {"socket_timeout": None}}, "socket_timeout is not set"),
        ({"broker_transport_options": {"global_keyprefix": ""}}, "global_keyprefix is not set"),
        ({"worker_cancel_long_running_tasks_on_connection_loss": True}, "a Redis broker then loses tasks"),
        ({"worker_prefetch_multiplier": 4}, "worker_prefetch_multiplier is not 1"),
        ({"accept_content": ["json", "pickle"]}, "accept_content allows more than JSON"),
    ],
)
def test_check_names_what_endangers_a_redis_broker(changed, named):
    assert_only(problem_of(SOUND, changed), named)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (
            {"task_queues": [Queue(FLUSH, Exchange(FLUSH), queue_arguments={"x-queue-type": "quorum"})]},
            f"queue {FLUSH} is a quorum queue without a dead-letter exchange",
        ),
        ({"broker_transport_options": {"confirm_publish": False}}, "confirm_publish is not set"),
        ({"worker_prefetch_multiplier": 0}, "worker_prefetch_multiplier is not 1"),
        ({"accept_content": ["pickle"]}, "accept_content allows more than JSON"),
    ],
)
def test_check_names_what_endangers_a_rabbitmq_broker(changed, named):
    assert_only(problem_of(RABBIT, changed), named)


def test_check_is_alarmed_by_celerys_defaults():
    plain = Celery("plain", broker="redis://127.0.0.1:1/0", set_as_current=False)
    assert len(check(plain)) == 3


def problem_of(settings: Settings, changed: dict) -> list[str]:
    app = make_app(settings)
    for name, value in changed.items():
        before = app.conf.get(name)
        app.conf[name] = {**before, **value} if isinstance(value, dict) else value
    return check(app)


def assert_only(problems: list[str], named: str) -> None:
    assert len(problems) == 1, problems
    assert named in problems[0]
