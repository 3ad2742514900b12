"""An agent's turn as a Celery task of your own: killed and delivered again, it goes on from where it was.

    eval "$(threadkeep env)"                       # in the folder of a running `threadkeep up`
    celery --workdir examples -A agent_task worker -Q agents --concurrency 2
    python examples/agent_task.py "Where is parcel 42?"

The web app appends what the user said and queues the thread's id: no text ever passes through the broker.
"""

import re
import sys
from functools import cache
from typing import Any
from uuid import uuid4

from celery import Celery, Task
from kombu import Queue

from threadkeep import Settings, Threadkeep, ThreadkeepError
from threadkeep.tasks.conf import recommended_conf

settings = Settings.load()
app = Celery("agents", set_as_current=False)
app.conf.update(recommended_conf(settings))
app.conf.update(task_default_queue="agents", task_queues=[Queue("agents")], task_routes={}, beat_schedule={})

Message = dict[str, Any]


def track_parcel(number: int) -> str:
    """Tell where a parcel is.

    Args:
        number: The number on the receipt.
    """
    return f"Parcel {number} is in Rotterdam."


TOOLS = [track_parcel]


def model(request: dict[str, Any]) -> Message:
    """REPLACE THIS with a call of your provider, such as `client.messages.create(**request, …)` with its codec."""
    last: Message = request["messages"][-1]
    if last["role"] == "tool":
        return {"role": "assistant", "content": f"Good news: {last['content']}"}
    number = re.search(r"\d+", last["content"])
    if number is None:
        return {"role": "assistant", "content": "Which parcel? I need its number."}
    call = {"id": f"call-{len(request['messages'])}", "name": "track_parcel", "args": {"number": number[0]}}
    return {"role": "assistant", "content": "Let me look.", "tool_calls": [call]}


@cache
def threads() -> Threadkeep:
    """One for each worker process."""
    return Threadkeep(settings)


@app.task(name="agents.answer", bind=True, acks_late=True, reject_on_worker_lost=True, max_retries=50)
def answer(self: Task[Any, Any], thread_id: str) -> dict[str, Any]:
    """Answer what stands last in the thread. May be delivered any number of times.

    The task's id is the run's. A worker that dies leaves its lease behind, so a second delivery may find the thread
    busy until that has run out; a retry keeps the id.
    """
    try:
        with threads().open(thread_id, wait=2) as session:
            if not session.unanswered:  # an earlier task answered this message together with its own
                return {"thread_id": thread_id, "reason": "nothing to answer"}
            return session.run(model, tools=TOOLS, run_id=self.request.id).to_dict()
    except ThreadkeepError as error:
        if error.retryable:
            raise self.retry(exc=error, countdown=1) from error
        raise


def say(thread_id: str, text: str) -> str:
    """What a web app does: keep the message, then queue the work. Returns the task's id.

    Raises:
        ThreadBusy: the agent is answering; the client should come back.
    """
    message_id = str(uuid4())
    with threads().open(thread_id, create=True, wait=2) as session:
        session.user(text, id=message_id)
    queued = answer.apply_async((thread_id,), task_id=f"answer-{message_id}")
    return str(queued.id)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit('usage: python examples/agent_task.py "Where is parcel 42?"')
    print(say("parcels", sys.argv[1]))  # noqa: T201
