"""A run that dies at any of its steps, and is started again under its id, ends as one that was left alone."""

from dataclasses import replace

import pytest

from tests.conformance.scripted import Scripted, call, claude, says, user, uses, wants
from tests.integration.test_hard_cases import end_lease, lose_reply
from threadkeep import Threadkeep, ThreadRef
from threadkeep.errors import HotTierLost, LeaseLost, StoreUnavailable, ThreadNotFound
from threadkeep.session import Hooks, Subagent, Tool
from threadkeep.storage.link import SyncLink

RUN = "run-1"


class Killed(BaseException):
    """The process is gone: nothing that comes after is done either."""


class Mortal:
    """Kills at the n-th step on Redis that a session takes, before it is done or after, with its reply lost."""

    def __init__(self, keep, at, when):
        self.steps, self._at, self._when, self._dead = 0, at, when, False
        link: SyncLink = keep._link
        for name in ("run", "batch", "call"):
            setattr(link, name, self._counted(getattr(link, name)))

    def _counted(self, step):
        async def counted(*args, **kwargs):
            if self._dead:
                raise Killed
            self.steps += 1
            dies = self.steps == self._at
            if dies and self._when == "before":
                self.die()
            reply = await step(*args, **kwargs)
            if dies:
                self.die()
            return reply

        return counted

    def die(self):
        self._dead = True
        raise Killed


def look(number: int) -> str:
    """Look something up."""
    return f"{number} is here"


def note(ctx, text: str) -> str:
    """Write a note."""
    ctx.state["notes"] = [*ctx.state.get("notes", []), text]
    return "noted"


def plain_answers():
    return [
        wants(call("c1", "look", number=1), call("c2", "note", text="first")),
        wants(call("c1", "note", text="second"), call("c3", "nothing")),
        says("done"),
    ]


def claude_answers():
    return [
        claude("Let me look.", uses("c1", "look", number=1), uses("c2", "note", text="first")),
        claude(uses("c3", "note", text="second"), uses("c4", "nothing")),
        claude("done"),
    ]


def model(answers):
    """Answers by what stands in the thread, as a real one does: a call that is repeated gets the same answer."""

    return lambda request: answers[sum(message["role"] == "assistant" for message in request["messages"])]


def go(session, answers):
    return session.run(model(answers), input="hello", tools=[look, note], run_id=RUN)


def told(keep, thread_id):
    view = keep.read(thread_id)
    return [replace(entry, meta={**entry.meta, "ts": None}) for entry in view.entries], view.state


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("codec", ["plain", "anthropic"])
def test_a_run_that_is_killed_at_any_step_goes_on(keep, settings, stores, codec, when):
    answers = plain_answers() if codec == "plain" else claude_answers()
    with keep.new(codec=codec) as session:
        go(session, answers)
    whole = told(keep, session.id)
    steps = 0
    while True:
        steps += 1
        with keep.new(codec=codec) as made:
            thread_id = made.id
        with Threadkeep(settings) as first:
            killed = False
            session = first.open(thread_id)
            mortal = Mortal(first, steps, when)
            try:
                with session:
                    go(session, answers)
            except Killed:
                killed = True
            first._heartbeat.remove(session._writer)
        end_lease(stores, ThreadRef.of(thread_id))
        with keep.open(thread_id) as again:
            result = go(again, answers)
        assert (result.reason, result.text, result.turns) == ("completed", "done", 3), f"step {steps}"
        assert told(keep, thread_id) == whole, f"step {steps} of {mortal.steps}"
        if not killed:
            break
    assert steps > 6, "the steps were counted"


# --- replies that are lost ------------------------------------------------------------------------------------------


def test_what_was_read_before_a_cut_is_not_relied_on_if_looking_again_fails(keep, monkeypatch):
    with keep.new() as session:
        session.append(user("1"), user("2"), ids=["a", "b"])
        assert session.count == len(session.messages) == 2
        hot, truncate = session._writer._hot, session._writer._hot.truncate

        async def then_unheard(*args, **kwargs):
            written = await truncate(*args, **kwargs)
            lose_reply(monkeypatch, session, "look")
            return written

        monkeypatch.setattr(hot, "truncate", then_unheard)
        with pytest.raises(StoreUnavailable):
            session.truncate("b")
        assert session.append(user("3"), id="b") == ["b"]
        assert session.messages == [user("1"), user("3")]


def test_a_replacement_is_not_mixed_with_what_was_there_if_looking_again_fails(keep, monkeypatch):
    with keep.new() as session:
        session.append(user("1"), id="a")
        original, seen = session._writer._hot.look, []

        async def fails_the_second_time(*args):
            seen.append(args)
            if len(seen) == 2:
                monkeypatch.setattr(session._writer._hot, "look", original)
                raise StoreUnavailable("Redis", "look", "no answer")
            return await original(*args)

        monkeypatch.setattr(session._writer._hot, "look", fails_the_second_time)
        with pytest.raises(StoreUnavailable):
            session.replace(user("2"), ids=["b"])
        session.append(user("3"), id="a")
        assert session.messages == [user("2"), user("3")]


def test_a_state_whose_save_was_not_heard_of_is_saved_again_when_it_changes_back(keep, monkeypatch):
    with keep.new(state={"step": 1}) as session:
        session.state["step"] = 2
        lose_reply(monkeypatch, session, "save")
        with pytest.raises(StoreUnavailable):
            session.checkpoint()
        session.state["step"] = 1
    assert keep.read(session.id).state == {"step": 1}


def test_a_session_that_is_fenced_in_the_middle_of_a_run_writes_nothing_more(keep, settings, stores):
    with keep.new() as made:
        pass

    def take_over() -> str:
        """Another session takes the thread."""
        end_lease(stores, ThreadRef.of(made.id))
        with Threadkeep(settings) as other, other.open(made.id) as session:
            session.append(user("mine now"), id="other")
        return "taken"

    with Threadkeep(settings) as first, pytest.raises(LeaseLost), first.open(made.id) as session:
        session.run(Scripted(wants(call("c", "take_over"))), input="go", tools=[take_over], run_id=RUN)
    assert [entry.id for entry in keep.read(made.id).entries] == [f"h-{RUN}", f"a-{RUN}-1", "other"]


# --- odd histories --------------------------------------------------------------------------------------------------


def test_neighbouring_runs_are_told_apart_when_one_is_broken_off(keep):
    """A run without input follows a finished one; only its own answer is repaired, and the other stays ended."""

    class Breaks(Hooks):
        def before_tool(self, event):
            raise ZeroDivisionError

    with keep.new() as session:
        session.run(Scripted(says("one")), input="hello", run_id="one")
        with pytest.raises(ZeroDivisionError):
            session.run(Scripted(wants(call("c", "look", number=1))), tools=[look], hooks=Breaks(), run_id="two")
        assert [repair.message_id for repair in session.repairs] == ["a-two-1"]
        assert session.run(Scripted(), run_id="one").text == "one"
        ids = [entry.id for entry in session.entries]
    assert ids == ["h-one", "a-one-1", "a-two-1", "t-two-1-0"]


def test_a_dropped_answer_takes_nothing_of_another_run_with_it(keep):
    with keep.new(codec="anthropic", on_dangling="drop") as session:
        session.run(Scripted(claude("one")), input="hello", run_id="one")
        session.append(claude(uses("c", "look", number=1)))
        session.user("next")
        assert [entry.kind for entry in session.entries] == ["user", "assistant", "user"]


def test_an_open_call_in_the_middle_of_a_thread_is_answered_and_put_in_its_place(keep):
    with keep.new(codec="anthropic") as session:
        said = [{"role": "user", "content": "hi"}, claude(uses("c1", "look", number=1)), claude("later")]
        session.append(*said, {"role": "user", "content": "and?"})
        session.user("well?")
        roles = [(message["role"], [block["type"] for block in _blocks(message)]) for message in _request(session)]
    assert roles == [
        ("user", ["text"]),
        ("assistant", ["tool_use", "text"]),
        ("user", ["tool_result", "text", "text"]),
    ]


def _request(session):
    return session.request(cache=False)["messages"]


def _blocks(message):
    content = message["content"]
    return [{"type": "text"}] if isinstance(content, str) else content


def test_a_call_id_that_comes_back_is_another_call(keep):
    with keep.new(codec="anthropic") as session:
        session.append(claude(uses("c", "look", number=1)))
        session.tool("c", "first")
        session.append(claude(uses("c", "look", number=2)))
        session.user("next")
        assert [repair.call_id for repair in session.repairs] == ["c"]
        results = [
            block["content"] for message in _request(session) for block in _blocks(message) if "content" in block
        ]
    assert results == ["first", '{"error":"interrupted"}']


def test_a_repeated_message_does_not_answer_the_calls_of_a_run_that_is_about_to_go_on(keep):
    with keep.new(codec="anthropic") as session:
        session.user("hi", id="said")
        session.append(claude(uses("c", "look", number=1)))
        session.user("hi", id="said")
        session.append({"role": "user", "content": "hi"}, id="said")
        assert (session.count, session.repairs, session.unanswered) == (2, [], True)


def test_tools_that_are_gone_when_a_run_goes_on_end_it_as_they_would_have(keep):
    with keep.new() as session:
        session.append(wants(call("c", "look", number=1)), id=f"a-{RUN}-1")
        first = session.entries[0]
        session.replace(replace(first, meta={**first.meta, "run": RUN, "turn": 1}))
        result = session.run(Scripted(), run_id=RUN)
        assert (result.reason, result.turns) == ("completed", 1)
        assert session.messages[-1]["content"] == {"error": "no tools are available"}


def test_a_result_that_is_too_large_to_keep_is_told_to_the_model(keep, settings):
    tuned = settings.model_copy(update={"max_message_bytes": 2000})
    with Threadkeep(tuned) as small, small.new() as session:
        huge = Tool("huge", "Says much.", lambda: "x" * 5000)
        result = session.run(Scripted(wants(call("c", "huge")), says("done")), input="go", tools=[huge])
        assert result.reason == "completed"
        told_to_model = session.messages[2]
        assert told_to_model["is_error"]
        assert "MAX_MESSAGE_BYTES" in told_to_model["content"]["error"]


def test_an_input_that_could_not_be_made_is_asked_for_again_though_a_message_was_posted(keep):
    with keep.new() as session:

        def fails():
            session.post("posted", id="p")
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            session.run(Scripted(), input=fails, run_id=RUN)
        session.run(Scripted(says("done")), input="hello", run_id=RUN)
        assert [entry.id for entry in session.entries] == ["p", f"h-{RUN}", f"a-{RUN}-1"]


def test_a_chosen_id_may_be_forked_to_by_a_slow_hook(keep, settings, worker):
    """The hook takes longer than a hydrate may; the copy is made all the same."""
    import time

    worker()
    tuned = settings.model_copy(update={"hydrate_wait": 1})
    with keep.new() as source:
        source.append(user("1"))
    with pytest.raises(ThreadNotFound):
        keep.open("chosen")  # a worker's word for it, which is remembered

    class Slow(Hooks):
        def on_fork_prepare(self, entries):
            time.sleep(1.5)
            return entries

    with Threadkeep(tuned) as hasty, hasty.fork(source.id, id="chosen", hooks=Slow()) as fork:
        assert fork.messages == [user("1")]


# --- subagents ------------------------------------------------------------------------------------------------------


def test_calls_of_one_id_in_two_turns_have_a_thread_each(keep, worker):
    worker()

    def child(request):
        return says(f"answer to {request['messages'][-1]['content']}")

    asks = [wants(call("same", "helper", prompt=f"question {n}")) for n in (1, 2)]
    with keep.new() as session:
        session.run(Scripted(*asks, says("done")), input="go", tools=[Subagent("helper", "Helps.", keep, child)])
        results = [message["content"] for message in session.messages if message["role"] == "tool"]
    assert results == ["answer to question 1", "answer to question 2"]


def test_a_subagent_waits_for_the_lease_of_an_attempt_that_died(settings, stores, worker):
    worker()
    short = settings.model_copy(update={"lease_seconds": 2})

    def go_on(keep, child):
        with keep.open("parent", create=True) as session:
            tools = [Subagent("helper", "Helps.", keep, child)]
            asks = model([wants(call("c", "helper", prompt="help")), says("done")])
            session.run(asks, input="go", tools=tools, run_id=RUN)
            return session.messages[2]["content"]

    with Threadkeep(short) as dying:
        mortal = Mortal(dying, None, "")
        with pytest.raises(Killed):
            go_on(dying, lambda request: mortal.die())
    end_lease(stores, ThreadRef.of("parent"))
    with Threadkeep(short) as again:
        assert go_on(again, Scripted(says("helped"))) == "helped"


# --- Redis falls back to an older moment ------------------------------------------------------------------------------


def copied(settings, stores, ref):
    """A thread's keys as they are now; called again, it puts them back."""
    import redis

    keys = stores.hot.keys(ref)
    client = redis.Redis.from_url(settings.redis_url)
    names = [keys.head, keys.base, keys.log, keys.ids]
    values = {name: client.dump(name) for name in names}

    def put_back():
        client.delete(*names)
        for name, value in values.items():
            if value is not None:
                client.restore(name, 0, value)
        client.close()

    return put_back


@pytest.mark.parametrize("codec", ["plain", "anthropic"])
def test_a_session_under_which_redis_falls_back_is_told_so(settings, stores, keep, codec):
    """As after a failover to a replica that lagged: the older head still bears this session's lease."""
    with pytest.raises(HotTierLost), keep.new(codec=codec) as session:
        session.user("0")
        fall_back = copied(settings, stores, ThreadRef.of(session.id))
        session.user("acknowledged")
        fall_back()
        session.user("next")
    assert [entry.body["content"] for entry in keep.read(session.id).entries] == ["0"]


def test_what_was_sound_is_looked_at_again_after_redis_fell_back(settings, stores, keep):
    with keep.new(codec="anthropic") as session:
        session.user("hi")
        session.append(claude(uses("c", "look", number=1)))
        fall_back = copied(settings, stores, ThreadRef.of(session.id))
        session.tool("c", "here")
        session.user("thanks")
        fall_back()
        with pytest.raises(HotTierLost):
            session.user("again")
        session.user("again")
        assert [repair.call_id for repair in session.repairs] == ["c"]


# --- what must not be repaired, and what must ------------------------------------------------------------------------


def test_what_is_dropped_takes_no_repair_with_it(keep):
    with keep.new(codec="anthropic", on_dangling="drop") as session:
        said = [{"role": "user", "content": "hi"}, claude(uses("c1", "look", number=1))]
        session.append(*said, {"role": "user", "content": "and?"}, claude(uses("c2", "look", number=2)))
        session.user("well?")
        assert {(repair.call_id, repair.how) for repair in session.repairs} == {("c1", "answered"), ("c2", "dropped")}
        types = [block["type"] for message in _request(session) for block in _blocks(message)]
    assert types == ["text", "tool_use", "tool_result", "text", "text"]


def test_an_ended_run_that_comes_back_leaves_the_calls_of_another_alone(keep):
    with keep.new() as session:
        session.run(Scripted(says("one")), input="hello", run_id="one")
        meta = {"run": "two", "turn": 1}
        session.append(wants(call("c", "look", number=1)), id="a-two-1")
        entries = session.entries
        session.replace(*entries[:-1], replace(entries[-1], meta={**entries[-1].meta, **meta}))
        assert session.run(Scripted(), run_id="one").text == "one"
        assert session.repairs == []
        assert session.run(Scripted(says("two")), tools=[look], run_id="two").text == "two"
        assert session.messages[-2]["content"] == "1 is here"


def test_a_new_system_prompt_does_not_answer_the_calls_of_a_run_that_is_about_to_go_on(keep):
    with keep.new(codec="anthropic", system="Be brief.") as session:
        session.user("hi")
        session.append(claude(uses("c", "look", number=1)))
        session.system("Today is Monday.")
        assert (session.repairs, session.unanswered) == ([], True)
        assert session.request()["system"][-1]["text"] == "Today is Monday."


def test_items_of_one_answer_may_be_appended_one_by_one(keep):
    calls = [{"type": "function_call", "call_id": name, "name": "look", "arguments": "{}"} for name in ("c1", "c2")]
    with keep.new(codec="openai-responses") as session:
        session.user("hi")
        for item in calls:
            session.append(item)
        for item in calls:
            session.tool(item["call_id"], "here")
        assert session.repairs == []


def test_a_lease_is_given_back_though_an_answer_cannot_be_mended(keep, monkeypatch):
    with keep.new(codec="anthropic") as session, pytest.raises(ZeroDivisionError) as raised, session:
        session.append(claude(uses("c", "look", number=1)))
        monkeypatch.setattr(session._talk.codec, "result", lambda *args, **kwargs: {}["odd"])
        raise ZeroDivisionError
    monkeypatch.undo()
    assert "odd" in raised.value.__notes__[0]
    with keep.open(session.id) as again:
        assert again.count == 1


def test_a_run_that_goes_on_leaves_alone_the_calls_that_the_app_has_answered(keep):
    ran = []

    def look_up(number: int) -> str:
        """Look something up."""
        ran.append(number)
        return f"{number} is here"

    calls = claude(uses("c1", "look_up", number=1), uses("c2", "look_up", number=2))
    with keep.new(codec="anthropic") as session:
        session.append(calls, id=f"a-{RUN}-1")
        (entry,) = session.entries
        session.replace(replace(entry, meta={**entry.meta, "run": RUN, "turn": 1}))
        session.tool("c1", "by hand")
        assert session.run(Scripted(claude("done")), tools=[look_up], run_id=RUN).text == "done"
        results = [block for message in _request(session) for block in _blocks(message) if "content" in block]
        assert [entry.id for entry in session.entries][2:] == [f"t-{RUN}-1-1", f"a-{RUN}-2"]
    assert ran == [2]
    assert [block["content"] for block in results] == ["by hand", "2 is here"]


def test_results_that_are_too_large_together_give_way_largest_first(settings):
    tuned = settings.model_copy(update={"max_append_bytes": 5000, "max_message_bytes": 4000})
    sizes = {"small": 100, "large": 3500, "larger": 3600}

    def says_much(name):
        return Tool(name, "Says much.", lambda: "x" * sizes[name])

    tools = [says_much(name) for name in sizes]
    asks = wants(*(call(f"c-{name}", name) for name in sizes))
    with Threadkeep(tuned) as keep, keep.new() as session:
        assert session.run(Scripted(asks, says("done")), input="go", tools=tools).reason == "completed"
        results = session.messages[2:5]
    assert [len(result["content"]) for result in results[:2]] == [100, 3500]
    assert "MAX_APPEND_BYTES" in results[2]["content"]["error"]
