"""A chat service on FastAPI: each request opens a thread, writes, and leaves it to Threadkeep.

    eval "$(threadkeep env)"                       # in the folder of a running `threadkeep up`
    pip install fastapi uvicorn
    uvicorn fastapi_app:app --app-dir examples

The service needs Redis and the broker; it holds no credentials of S3 or Postgres.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import uuid4

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from threadkeep import AsyncThreadkeep, ThreadBusy, ThreadkeepError, ThreadNotFound
from threadkeep.errors import MessageConflict

Message = dict[str, Any]


def reply(messages: list[Message]) -> Message:
    """REPLACE THIS with a call of your model; `messages` is the whole conversation, oldest first."""
    turns = sum(message["role"] == "user" for message in messages)
    return {"role": "assistant", "content": f"This is turn {turns}. You said: {messages[-1]['content']}"}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One `AsyncThreadkeep` for the whole process, set up from THREADKEEP_* variables."""
    async with AsyncThreadkeep() as keep:
        app.state.keep = keep
        yield


app = FastAPI(title="Chat", lifespan=lifespan)


def threadkeep(request: Request) -> AsyncThreadkeep:
    keep: AsyncThreadkeep = request.app.state.keep
    return keep


Keep = Annotated[AsyncThreadkeep, Depends(threadkeep)]


class Said(BaseModel):
    """What a user says. A client that repeats a request repeats its id, and gets the first answer again."""

    text: str = Field(min_length=1, max_length=100_000)
    id: str = Field(default_factory=lambda: str(uuid4()), min_length=1, max_length=500)


@app.post("/threads/{thread_id}/messages")
async def say(thread_id: str, said: Said, keep: Keep) -> dict[str, Any]:
    """Add the user's message and the answer; makes the thread if there is none, and brings it back if it is cold."""
    answer_id = f"{said.id}.answer"
    async with keep.open(thread_id, create=True) as session:
        await session.append({"role": "user", "content": said.text}, id=said.id)
        answered = {entry.id: entry.body for entry in await session.entries}
        answer: Message = answered.get(answer_id) or reply(await session.messages)
        await session.append(answer, id=answer_id)
    return {"thread": thread_id, "reply": answer, "messages": session.count, "flush_queued": session.flush_enqueued}


@app.post("/threads/{thread_id}/open", status_code=202)
async def page_opened(thread_id: str, keep: Keep) -> dict[str, bool]:
    """Somebody opened the thread's page: bring it back while they read and type. Never waits for it."""
    return {"on_its_way": await keep.prefetch(thread_id)}


@app.get("/threads/{thread_id}")
async def show(thread_id: str, keep: Keep) -> dict[str, Any]:
    """The conversation as it is now, even while somebody writes it."""
    view = await keep.read(thread_id)
    return {"thread": view.id, "messages": view.messages, "labels": view.labels}


@app.exception_handler(ThreadkeepError)
async def failed(_: Request, error: ThreadkeepError) -> JSONResponse:
    """Each error as the HTTP status that tells a client what to do. The text holds ids, never content."""
    headers: dict[str, str] = {}
    match error:
        case ThreadNotFound():
            status = 404
        case ThreadBusy() | MessageConflict():
            status = 409
        case ValueError():  # InvalidThreadId, InvalidMessage
            status = 422
        case _ if error.retryable:
            status, headers = 503, {"Retry-After": "2"}
        case _:
            status = 500
    return JSONResponse({"error": type(error).__name__, "detail": str(error)}, status_code=status, headers=headers)
