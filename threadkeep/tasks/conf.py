"""The Celery configuration that Threadkeep's promises stand on, and a check that names what endangers them."""

from collections.abc import Iterator
from math import ceil
from typing import Any, Final
from urllib.parse import urlsplit

from celery import Celery
from kombu import Exchange, Queue, binding
from kombu.transport.native_delayed_delivery import MAX_LEVEL, level_name

from threadkeep.config import Settings

HYDRATE: Final = "threadkeep.hydrate"
FLUSH: Final = "threadkeep.flush"
MAINTENANCE: Final = "threadkeep.maintenance"
QUEUES: Final = (HYDRATE, FLUSH, MAINTENANCE)
DEAD: Final = "threadkeep.dead"
"""Where RabbitMQ puts what was delivered too often, or refused."""
REDELIVERIES: Final = 5
"""How often RabbitMQ delivers a message again; the next time that it comes back, it is a dead letter."""
SETTINGS_KEY: Final = "threadkeep_settings"
"""Where an app's configuration carries the `Settings`; the environment is read where it does not."""

SENT_EVERY: Final = 900.0
"""Seconds between two messages of beat for the same periodic task, at most."""

ROUTES: Final = {
    "threadkeep.hydrate_thread": {"queue": HYDRATE},
    "threadkeep.describe_thread": {"queue": HYDRATE},
    "threadkeep.flush_thread": {"queue": FLUSH},
    "threadkeep.flush_threads": {"queue": FLUSH},
    "threadkeep.hydrate_threads": {"queue": FLUSH},
    "threadkeep.sweep": {"queue": MAINTENANCE},
    "threadkeep.erase_thread": {"queue": MAINTENANCE},
    "threadkeep.purge_conflicts": {"queue": MAINTENANCE},
    "threadkeep.verify_archives": {"queue": MAINTENANCE},
    "threadkeep.reconcile_catalog": {"queue": MAINTENANCE},
}


def is_redis(broker_url: str) -> bool:
    return urlsplit(broker_url).scheme in ("redis", "rediss", "unix", "redis+socket")


def queues(broker_url: str) -> list[Queue]:
    """The three queues; on RabbitMQ quorum queues that hand on what was delivered too often.

    There their exchanges are topic exchanges, which alone let Celery delay a message in the broker: behind a direct one
    a worker holds the message until it is due, and takes no other from that queue meanwhile.
    https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/rabbitmq.html#using-quorum-queues
    """
    if is_redis(broker_url):
        return [Queue(name, Exchange(name, type="direct"), routing_key=name) for name in QUEUES]
    arguments = {
        "x-queue-type": "quorum",
        "x-delivery-limit": REDELIVERIES,
        "x-dead-letter-exchange": DEAD,
        "x-dead-letter-routing-key": DEAD,
    }
    return [
        Queue(name, Exchange(name, type="topic"), routing_key=name, queue_arguments=dict(arguments)) for name in QUEUES
    ]


def dead_letters() -> Queue:
    """RabbitMQ's queue of messages that were delivered too often, or refused; nobody consumes it.

    RabbitMQ hands expired messages on as well: a hydrate for which nobody waits any more is no dead letter, so the
    exchange lets through by the first reason. A message that Celery had delayed has expired once in a queue of the
    delays, and cannot a second time: it is let through by that queue.
    """
    exchange = Exchange(DEAD, type="headers")
    reasons = [{"x-first-death-reason": reason} for reason in ("delivery_limit", "rejected")]
    delays = [{"x-first-death-queue": level_name(level)} for level in range(MAX_LEVEL + 1)]
    bindings = [binding(exchange, arguments={"x-match": "all-with-x", **told}) for told in (*reasons, *delays)]
    return Queue(DEAD, bindings=bindings, queue_arguments={"x-queue-type": "quorum"})


def whole_delay(broker_url: str, seconds: float) -> float:
    """A delay as the broker can keep it: RabbitMQ's knows whole seconds, and Celery fails on less than one."""
    return seconds if is_redis(broker_url) or seconds <= 0 else float(ceil(seconds))


def recommended_conf(settings: Settings, *, publisher: bool = False) -> dict[str, Any]:
    """What to pass to `app.conf.update`; for a process that only publishes, with time-outs fit for a web request."""
    redis = is_redis(settings.broker_url)
    conf: dict[str, Any] = {
        "broker_url": settings.broker_url,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": (_redis_options if redis else _amqp_options)(settings, publisher=publisher),
        "broker_connection_timeout": 1.0 if publisher else 4.0,
        "task_queues": queues(settings.broker_url),
        "task_routes": dict(ROUTES),
        "task_annotations": _limits(settings),
        "task_default_queue": MAINTENANCE,
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        "task_send_sent_event": True,
        "task_track_started": True,
        "worker_send_task_events": True,
        "worker_prefetch_multiplier": 1,
        "worker_cancel_long_running_tasks_on_connection_loss": not redis,
        "worker_deduplicate_successful_tasks": False,
        "worker_soft_shutdown_timeout": 20.0,
        "worker_max_tasks_per_child": 1000,
        "worker_max_memory_per_child": 300_000,
        "worker_hijack_root_logger": True,
        "timezone": "UTC",
        "beat_schedule": _schedule(settings),
    }
    if publisher:
        conf["broker_pool_acquire_timeout"] = settings.broker_timeout
        conf["broker_connection_retry"] = False
    if not redis and not publisher:
        conf["worker_detect_quorum_queues"] = True
    return conf


def _schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """What beat sends; a period of 0 is never.

    More often than the period where that is long: a run finds out whether it is the period's first, and a beat that is
    restarted forgets when it last sent something.
    """
    periods = {
        "sweep": settings.sweep_every,
        "verify_archives": settings.verify_every,
        "reconcile_catalog": settings.reconcile_every,
    }
    return {
        f"threadkeep-{name.replace('_', '-')}": {
            "task": f"threadkeep.{name}",
            "schedule": min(period, SENT_EVERY),
            "options": {"queue": MAINTENANCE, "expires": min(period, SENT_EVERY)},
        }
        for name, period in periods.items()
        if period
    }


def _limits(settings: Settings) -> dict[str, dict[str, float]]:
    limits = {"soft_time_limit": settings.soft_time_limit, "time_limit": settings.hard_time_limit}
    return {name: dict(limits) for name in ROUTES}


def _amqp_options(settings: Settings, *, publisher: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"confirm_publish": True}
    if publisher:  # without these, a broker that has stopped answering is waited for without end
        options |= {"read_timeout": settings.broker_timeout, "write_timeout": settings.broker_timeout}
    return options


def _redis_options(settings: Settings, *, publisher: bool) -> dict[str, Any]:
    options: dict[str, Any] = {
        "global_keyprefix": settings.broker_prefix,
        "visibility_timeout": settings.visibility_timeout,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "socket_timeout": settings.broker_timeout if publisher else 5.0,
        "socket_connect_timeout": min(1.0, settings.broker_timeout) if publisher else 2.0,
        "socket_keepalive": True,
        "health_check_interval": 10,
    }
    if publisher:
        options["retry_on_timeout"] = False
    return options


def check(app: Celery) -> list[str]:
    """What of an app's own configuration endangers Threadkeep's promises; one sentence each, none if all is well."""
    conf = app.conf
    problems = list(_redis_problems(app) if is_redis(str(conf.broker_url or "")) else _rabbitmq_problems(app))
    if conf.worker_prefetch_multiplier != 1:
        problems.append("worker_prefetch_multiplier is not 1: messages age in busy workers")
    if set(conf.accept_content or []) - {"json", "application/json"}:
        problems.append("accept_content allows more than JSON: unpickling runs code from the broker")
    return problems


def _redis_problems(app: Celery) -> Iterator[str]:
    options, limit = app.conf.broker_transport_options or {}, 2 * _hard_limit(app)
    if options.get("visibility_timeout", 3600) < limit:
        yield f"broker_transport_options.visibility_timeout is below {limit:g} s: running tasks are delivered again"
    if not options.get("socket_timeout"):
        yield "broker_transport_options.socket_timeout is not set: a half-open broker blocks for ever"
    if not options.get("global_keyprefix"):
        yield "broker_transport_options.global_keyprefix is not set: queues may clash with other keys"
    if app.conf.worker_cancel_long_running_tasks_on_connection_loss:
        yield "worker_cancel_long_running_tasks_on_connection_loss is on: a Redis broker then loses tasks"


def _rabbitmq_problems(app: Celery) -> Iterator[str]:
    if not (app.conf.broker_transport_options or {}).get("confirm_publish"):
        yield "broker_transport_options.confirm_publish is not set: RabbitMQ may drop what was published"
    for queue in app.conf.task_queues or []:
        arguments = queue.queue_arguments or {}
        if arguments.get("x-queue-type") == "quorum" and not arguments.get("x-dead-letter-exchange"):
            yield f"queue {queue.name} is a quorum queue without a dead-letter exchange: failing messages are dropped"


def _hard_limit(app: Celery) -> float:
    task = app.tasks.get("threadkeep.flush_thread")
    return float(getattr(task, "time_limit", None) or 120.0)
