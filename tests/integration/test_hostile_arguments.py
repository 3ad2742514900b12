"""No argument runs as code, reaches another thread, or leaves a script half-done: it is refused before any write."""

import os
import pickle
import random
import re
import unicodedata
from importlib.resources import files

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as tuned
from hypothesis import strategies as st

from tests.integration.protocol import user
from threadkeep.errors import InvalidThreadId, StoreRefused, ThreadkeepError
from threadkeep.model import Entry, Seal, StoredObject, ThreadRef
from threadkeep.storage.archive import NO_CHAIN, seal_tail
from threadkeep.storage.cold_keys import ColdKeys
from threadkeep.storage.hot_flow import SealedFlush
from threadkeep.storage.hot_head import base_fields, identity_fields
from threadkeep.storage.hot_keys import ThreadKeys
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.link import run_now as now
from threadkeep.storage.parts import entries_of, plain_parts
from threadkeep.storage.record_ids import ID_BYTES, id_hash
from threadkeep.strict_json import dump_json
from threadkeep.tasks.adoption import make_app
from threadkeep.tasks.conf import FLUSH, QUEUES, queues

SCRIPTS = sorted(
    item.name.removesuffix(".lua")
    for item in (files("threadkeep.storage") / "lua").iterdir()
    if item.name.endswith(".lua") and item.name != "prelude.lua"
)
EXAMPLES = 500 if os.environ.get("PROVE") else 40
REF = ThreadRef.of("t")
LIMITS = ReadLimits(10**9)
STORED = StoredObject("k", "etag-1", 10, None, 0.0)
IDENTITY = identity_fields(codec="plain", state=None, labels={}, forked_from=None)


def fast(examples=EXAMPLES):
    return tuned(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture
def hot(stores):
    return stores.hot


@pytest.fixture
def flow(stores):
    return stores.flow


# --- the typed methods, with whatever may be in a name or a value -----------------------------------------------------

LUA = "']] redis.call('FLUSHALL') --[["
FAVOURITES = [
    "..",
    ".",
    "%2e%2e",
    "%2F",
    "{a}",
    "}{s0001}:",
    "a:head",
    "\\",
    "a b",
    "*",
    "?[a-z]",
    LUA,
    "\u202e",
    "'\"",
]
characters = st.characters() | st.sampled_from("{}%/:.\\\n\r\x00\x7f\x9b\u2028\ufeff\U0010ffff\ud800\udfff")
names = (
    st.sampled_from(FAVOURITES) | st.text(characters, max_size=24) | st.text("a%é\U0001f600", min_size=60, max_size=250)
)
tokens = st.text(characters, min_size=1, max_size=20) | st.sampled_from(["\ud800", LUA, "0", "nan", " ", "\x00"])
bodies = st.binary(max_size=80) | st.sampled_from([b"", b"\x00", b"\r\n$-1\r\n", LUA.encode(), b"nil", b"9" * 400])
states = st.dictionaries(st.text(max_size=5), st.text(characters, max_size=9) | st.integers(), max_size=3)


def test_whatever_a_name_or_a_value_holds_it_comes_back_from_its_own_thread_alone(hot, flow):
    """Every name is refused by name, or a thread of its own; records of any bytes come back as they were."""
    canary = hot.keys(ThreadRef.of("canary")).answer("canary")
    now(hot.link.run("SET", canary, "sings", "PX", 600_000))
    seen = {"refused": 0, "kept": 0}

    @given(names, names, tokens, st.lists(bodies, min_size=1, max_size=3), states)
    @fast(3 * EXAMPLES)
    def written(namespace, thread_id, token, records, state):
        try:
            ref = ThreadRef(namespace, thread_id)
        except InvalidThreadId:
            seen["refused"] += 1
            return
        try:
            if any("\ud800" <= each <= "\udfff" for each in token):
                with pytest.raises(StoreRefused):
                    _kept(hot, flow, ref, token, records, dump_json(state))
            else:
                _kept(hot, flow, ref, token, records, dump_json(state))
                seen["kept"] += 1
        finally:
            keys = hot.keys(ref)
            now(hot.link.run("DEL", keys.head, keys.base, keys.log, keys.ids, keys.ticket, keys.tries))
            now(hot.link.run("ZREM", keys.all[5], ref.member))
        assert now(hot.link.run("GET", canary)) == b"sings"

    written()
    assert min(seen.values()) > 5


def _kept(hot, flow, ref, token, records, state):
    """Make the thread, write to it, read it, and let it be flushed."""
    made = now(hot.create(ref, token, plain_parts([], b"", IDENTITY), ticket="", gen="0a"))
    assert made.status == "ok"
    ids = b"".join(id_hash(f"m{n}") for n in range(len(records)))
    assert now(hot.append(ref, token, records, ids, checked=0, fields=["state", state])).status == "ok"
    assert now(hot.append(ref, f"{token}!", records, ids, checked=0)).status == "fenced"
    contents = now(hot.read(ref, with_ids=True))
    assert (contents.tail, contents.ids, dump_json(contents.head.state)) == (records, ids, state)
    assert ref in now(_collected(flow.index()))
    assert now(flow.begin_flush(ref, "0b", "checkpoint", run=token)).status == "go"
    assert now(hot.ask(ref, keep=1)).status == "present"
    assert now(hot.release(ref, token, "evict", token)).status == "enqueue"
    assert now(hot.read(ref)).tail == records


async def _collected(items):
    return [item async for item in items]


# --- names that look alike --------------------------------------------------------------------------------------------

LIKENESSES = [
    str.upper,
    str.lower,
    str.swapcase,
    lambda name: name + ".",
    lambda name: "." + name,
    lambda name: name + " ",
    lambda name: name + "/",
    lambda name: name + ":",
    lambda name: name + "%00",
    lambda name: name.replace("/", "%2F"),
    lambda name: name.replace("%", "%25"),
    lambda name: name.replace("%2F", "/"),
    lambda name: name + ":head",
    lambda name: "{" + name + "}",
    lambda name: unicodedata.normalize("NFC", name),
    lambda name: unicodedata.normalize("NFD", name),
    lambda name: unicodedata.normalize("NFKC", name),
    lambda name: name + "\u200b",
    lambda name: name.translate({ord("a"): "а"}),  # noqa: RUF001  Cyrillic
]


def all_keys(ref):
    """Every key and object of a thread's own."""
    hot, cold = ThreadKeys("p", ref), ColdKeys("threads")
    own = [hot.head, hot.base, hot.log, hot.ids, hot.ticket, hot.all[6], hot.channel, *hot.staging("0a")]
    asked = [hot.answer("q"), hot.erased("q"), hot.answer(":head"), hot.erased("head")]
    stored = [
        cold.thread(ref),
        cold.revision(ref, 1, "0a"),
        cold.conflict(ref, 1, "0a"),
        cold.foreign_conflict(ref, 1, "e"),
    ]
    return {*own, *asked, *stored, cold.revisions(ref), cold.conflicts(ref)}


@given(names, names, st.sampled_from(LIKENESSES), st.booleans())
@fast(8 * EXAMPLES)
def test_names_that_look_alike_share_no_key(namespace, thread_id, alike, swap):
    try:
        one = ThreadRef(namespace, thread_id)
        other = ThreadRef(alike(namespace), thread_id) if swap else ThreadRef(namespace, alike(thread_id))
    except InvalidThreadId:
        return
    assert (all_keys(one) & all_keys(other) != set()) == (one == other)
    assert (one.member == other.member) == (one == other)


@given(names, names)
@fast(8 * EXAMPLES)
def test_no_name_leads_out_of_its_folder(namespace, thread_id):
    """What a store that resolves paths, and escapes in them, would make of a key lies where the key says."""
    try:
        ref = ThreadRef(namespace, thread_id)
    except InvalidThreadId:
        return
    cold = ColdKeys("a/b")
    for key in (cold.thread(ref), cold.revision(ref, 1, thread_id), cold.conflict(ref, 1, thread_id)):
        assert re.fullmatch(r"a/b/[A-Za-z0-9._~%/-]+\.ndjson\.zst", key)
        assert not {"", ".", ".."} & set(key.split("/"))
        assert os.path.normpath(key) == key


# --- scripts with garbage ---------------------------------------------------------------------------------------------

GARBAGE = [b"", b"0", b"1", b"-1", b"+1", b"1.5", b"1e3", b"0x10", b" 1", b"1 ", b"01", b"nan", b"-inf", b"inf"]
GARBAGE += [b"1e400", b"9" * 15, b"9" * 16, b"9" * 400, b"\x00", b"\xff\xfe", b"nil", b"true", b"evict", b"checkpoint"]
GARBAGE += [b"state", b"count", b"rev", b"gen", b"lease", b"codec", b"base_bytes", b"{}", b"x" * 3_000, LUA.encode()]

RECORDS = [Entry(f"m{n}", "user", user(str(n))).to_record() for n in range(3)]
IDS = [id_hash(f"m{n}") for n in range(3)]
FRAME = seal_tail(RECORDS[:2], Seal("messages", "t", 7, "ab", 3, 0, None, NO_CHAIN), base_count=0, base_chain=NO_CHAIN)
DESCRIBED = base_fields(
    base_bytes=len(FRAME.body), frames=1, chain=FRAME.seal.chain, raw_bytes=FRAME.raw_bytes, log_bytes=0
)


class Tier:
    """A hot tier in one of a few situations, to which it can be put back."""

    def __init__(self, stores, situation):
        self.hot, self.flow, self.prefix = stores.hot, stores.flow, stores.settings.key_prefix
        self.forget()
        getattr(self, situation)()
        self._stage()
        self._keep_for_long()
        self.kept = self.snapshot()

    def hot_thread(self):
        """Leased by `me`, two messages archived, one not; a flush `ab` is under way, and one more is queued."""
        now(self.hot.create(REF, "me", plain_parts([], b"", IDENTITY), ticket="", gen="0a"))
        now(self.hot.append(REF, "me", RECORDS[:2], IDS[0] + IDS[1], checked=0))
        self._flushed("aa", "checkpoint")
        now(self.hot.append(REF, "me", RECORDS[2:], IDS[2], checked=2))
        now(self.flow.begin_flush(REF, "ab", "checkpoint", run="run-1"))
        now(self.hot.request_flush(REF, "linger", "flush-token"))

    def cached_copy(self):
        """Clean and leased by nobody."""
        now(self.hot.create(REF, "me", plain_parts([], b"", IDENTITY), ticket="", gen="0a"))
        now(self.hot.append(REF, "me", RECORDS[:2], IDS[0] + IDS[1], checked=0))
        self._flushed("aa", "checkpoint")
        now(self.hot.release(REF, "me", "linger", "flush-token"))

    def awaited(self):
        """Not here; a hydrate is under way."""
        now(self.hot.ask(REF, keep=60))
        now(self.hot.link.run("HSET", self.hot.keys(REF).ticket, "mark", "ticket"))

    def known_absent(self):
        """Not here, as a worker has told."""
        self.awaited()
        now(self.flow.tell(REF, "ticket", "absent"))

    def being_erased(self):
        """By the request `request`."""
        now(self.hot.mark_erasing(REF, "request"))

    def _flushed(self, attempt, mode):
        head = now(self.flow.begin_flush(REF, attempt, mode)).head
        sealed = SealedFlush(
            attempt=attempt,
            rev=head.rev,
            records=2,
            record_bytes=FRAME.raw_bytes,
            pieces=[FRAME.body],
            replaces=False,
            base_count=2,
            base_bytes=len(FRAME.body),
            frames=1,
            chain=FRAME.seal.chain,
            raw_bytes=FRAME.raw_bytes,
        )
        assert now(self.flow.settle(REF, sealed, STORED, gen=head.gen, mode=mode)).status == "kept"

    def _stage(self):
        now(self.hot.stage(self.staging, pieces=[FRAME.body], log=[RECORDS[2]], ids=b"".join(IDS)))

    @property
    def staging(self):
        return self.hot.keys(REF).staging("staged")

    def _keep_for_long(self):
        """What would expire by itself meanwhile would look like a change: a verdict is believed for ten seconds."""
        for key in self._keys():
            if now(self.hot.link.run("PTTL", key)) >= 0:
                now(self.hot.link.run("PEXPIRE", key, 3_600_000))

    def _keys(self):
        return sorted(now(self.hot.link.run("KEYS", f"{self.prefix}:*")))

    def forget(self):
        if keys := self._keys():
            now(self.hot.link.run("DEL", *keys))

    def snapshot(self):
        """Every key, what is in it, and when it expires."""
        keys = self._keys()
        asked = [(command, key) for key in keys for command in ("DUMP", "PEXPIRETIME")]
        told = now(self.hot.link.batch(asked))
        return dict(zip(keys, zip(told[::2], told[1::2], strict=True), strict=True))

    def put_back(self):
        self.forget()
        commands = [
            ("RESTORE", key, max(expires, 0), dump, *(() if expires < 0 else ("ABSTTL",)))
            for key, (dump, expires) in self.kept.items()
        ]
        now(self.hot.link.batch(commands))

    def valid(self, name):
        """Arguments as the typed methods send them, as far as they make sense here."""
        head = now(self.hot.look(REF)).head
        gen, rev = (head.gen, head.rev) if head else ("0a", 7)
        size = len(RECORDS[2]) + 1
        mark = now(self.hot.link.run("HGET", self.hot.keys(REF).all[6], "mark")) or "request 1"
        return {
            "acquire": ["me", 10_000],
            "adopt": ["ab", "etag-2", 5, 0],
            "append": ["me", 10_000, 0, 3, 1, 9, id_hash("m9"), 2, "state", "{}", RECORDS[0]],
            "ask": ["ticket", "token", 60_000, 950, 5_000],
            "begin_flush": ["ac", "linger", 5, "run-2", 30_000, 1_000],
            "begin_hydrate": ["ticket", 60_000, 5, "epoch", "run-2", 30_000],
            "classify": ["ab", "", "etag-1"],
            "create": ["me", 10_000, "ticket", "0c", 1, 2, 3, *IDENTITY, *DESCRIBED],
            "distrust": [gen, rev, "0c", "etag-1"],
            "drop_outdated": [2**51],
            "erase_mark": ["request", ""],
            "erase_note": [mark, "versions", 3],
            "erase_unmark": [mark, 1_000, "{}", "7", 1_000],
            "heard": ["ticket", 1_000],
            "leave": [gen, rev, "evict"],
            "mend": ["ticket", "0c", gen, rev, 1, *DESCRIBED],
            "paid": [10**15],
            "read": [1_000, "1"],
            "release": ["me", "evict", "flush-2", 1_000, 0],
            "renew": ["me", 10_000],
            "request_flush": ["evict", "flush-2", 1_000],
            "restore": ["ticket", "0c", 1, 3, 7, 7, "", "", *IDENTITY, *DESCRIBED, "etag", "e", "key", "k", "born", 3],
            "rewrite": ["me", 10_000, gen, "0c", 1, 2, 3, "0", 0, *DESCRIBED],
            "save": ["me", 10_000, 0, "state", "{}", "labels", "{}"],
            "settle": [
                "ab",
                gen,
                "0c",
                rev,
                1,
                size,
                3,
                1,
                "0",
                "linger",
                "",
                "base_bytes",
                2 * len(FRAME.body),
                "etag",
                "e",
            ],
            "truncate": ["me", 10_000, gen, "0c", 2, size, 0],
            "verdict": ["ticket", "absent", "", 1_000, 0, "stays"],
            "withdraw": ["flush", "flush-token"],
        }.get(name, [])

    def whole_or_gone(self):
        """A thread that is here has as many parts as its head says, and is found by the sweep if it is hot."""
        status, *flat = now(self.hot.call("look", REF, []))
        if status != b"here":
            assert flat[4:] == [], "something is left of a thread that is not whole"
            return
        head, keys = dict(zip(flat[::2], flat[1::2], strict=True)), self.hot.keys(REF)
        counts = [int(head.get(name, 0)) for name in (b"pieces", b"count", b"base_count")]
        asked = [("LLEN", keys.base), ("LLEN", keys.log), ("STRLEN", keys.ids)]
        pieces, records, hashes = now(self.hot.link.batch(asked))
        assert [pieces, hashes // ID_BYTES, hashes // ID_BYTES - records] == counts
        if head[b"rev"] != head[b"archived"]:
            assert now(self.hot.link.run("ZSCORE", keys.all[5], REF.member)) is not None
            assert now(self.hot.link.run("PEXPIRETIME", keys.head)) == -1


SITUATIONS = ["hot_thread", "cached_copy", "awaited", "known_absent", "being_erased"]


@pytest.fixture
def tier_in(stores):
    """Makes a `Tier`; nothing of it stays."""
    made = []

    def make(situation):
        made.append(Tier(stores, situation))
        return made[-1]

    yield make
    for tier in made:
        tier.forget()


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_script_that_refuses_has_written_nothing_and_one_that_does_not_leaves_threads_whole(
    tier_in, situation, record_property
):
    tier, counts = tier_in(situation), {"refused": 0, "done": 0}

    @given(st.sampled_from(SCRIPTS), st.integers(0, 2**64), st.booleans())
    @fast(10 * EXAMPLES)
    def called(name, seed, close):
        tier.put_back()
        args = _spoilt(tier.valid(name), random.Random(seed), close=close)
        refused = _refusal_of(lambda: now(tier.hot.call(name, REF, args, staging=_staging(tier, name))))
        if refused is None:
            counts["done"] += 1
            tier.whole_or_gone()
        else:
            counts["refused"] += 1
            assert tier.snapshot() == tier.kept, (name, args, refused)

    called()
    record_property(
        "proof", f"{situation}: {sum(counts.values()):,} scripts called with garbage, {counts['refused']:,} refused"
    )


def _refusal_of(call):
    try:
        call()
    except StoreRefused as refused:
        return refused
    return None


def _staging(tier, name):
    """What stands behind the keys that all scripts have: staged parts, or the record of an erasure."""
    own = tier.hot.keys(REF)
    return {
        "append": [],
        "settle": tier.staging[:1],
        "erase_mark": [own.erased("request")],
        "erase_unmark": [own.erased("request"), f"{own.shard}graves"],
    }.get(name, tier.staging)


def _spoilt(args, dice, *, close):
    """Sound arguments with one or two of them replaced, dropped or added; or nothing but garbage."""
    if not close:
        return [dice.choice(GARBAGE) for _ in range(dice.randrange(18))]
    spoilt = list(args)
    for _ in range(dice.randrange(3)):
        at = dice.randrange(len(spoilt) + 1)
        match dice.randrange(4):
            case 0:
                del spoilt[at : at + 1]
            case 1:
                spoilt.insert(at, dice.choice(GARBAGE))
            case _:
                spoilt[at : at + 1] = [dice.choice(GARBAGE)]
    return spoilt


DONE = {
    "hot_thread": {
        "append",
        "release",
        "save",
        "settle",
        "truncate",
        "rewrite",
        "renew",
        "begin_flush",
        "adopt",
        "acquire",
    },
    "cached_copy": {"acquire", "ask", "leave", "drop_outdated", "distrust", "request_flush", "erase_mark"},
    "awaited": {"restore", "verdict", "begin_hydrate", "ask", "withdraw"},
    "known_absent": {"create"},
    "being_erased": {"erase_note", "erase_unmark"},
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_arguments_that_are_spoilt_there_are_sound(tier_in, situation):
    """Else garbage would be refused for being near nothing."""
    tier = tier_in(situation)
    for name in DONE[situation]:
        now(tier.hot.call(name, REF, tier.valid(name), staging=_staging(tier, name)))
        if name != "withdraw":
            assert tier.snapshot() != tier.kept, name
        tier.whole_or_gone()
        tier.put_back()
        assert tier.snapshot() == tier.kept


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_looks_at_its_arguments_first(name):
    text = (files("threadkeep.storage") / "lua" / f"{name}.lua").read_text()
    first = next(line for line in text.splitlines() if not line.startswith("--"))
    assert re.fullmatch(r"expect\('[a-zA-Z]*\*?'(, [1-9])?\)", first)


@pytest.mark.parametrize("name", [*SCRIPTS, "prelude"])
def test_no_script_makes_code_of_data(name):
    text = (files("threadkeep.storage") / "lua" / f"{name}.lua").read_text()
    code = "\n".join(line.split("--")[0] for line in text.splitlines())
    assert not re.search(r"\b(loadstring|load|dofile|loadfile|require|setfenv|getfenv|debug|rawset)\b", code)
    assert all(re.match(r"'[A-Z]+", called) for called in re.findall(r"redis\.p?call\((..)", code))


def test_a_field_that_makes_up_a_thread_cannot_be_set_from_outside(tier_in):
    tier = tier_in("hot_thread")
    for field in (
        "rev",
        "archived",
        "count",
        "base_count",
        "pieces",
        "gen",
        "lease",
        "lease_until",
        "attempts",
        "nonsense",
    ):
        with pytest.raises(StoreRefused, match="names no field that can be set"):
            now(tier.hot.save(REF, "me", [field, "1"]))
    assert tier.snapshot() == tier.kept


def test_what_cannot_be_sent_is_refused_by_name(tier_in):
    tier = tier_in("hot_thread")
    for token in ("\ud800", None, object(), ["me"], {"a": 1}):
        with pytest.raises(StoreRefused, match="cannot be sent"):
            now(tier.hot.acquire(REF, token))
    assert tier.snapshot() == tier.kept


def test_entries_come_back_from_every_situation_that_has_some(tier_in):
    for situation, count in (("hot_thread", 3), ("cached_copy", 2)):
        tier = tier_in(situation)
        contents = now(tier.hot.read(REF))
        assert [entry.id for entry in entries_of(contents, REF, limits=LIMITS)] == [f"m{n}" for n in range(count)]
    with pytest.raises(ThreadkeepError):
        now(tier.hot.call("save", REF, []))


# --- messages of the broker -------------------------------------------------------------------------------------------


class Bait:
    """Makes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_a_message_that_is_no_json_is_refused_by_a_worker_which_goes_on(settings, keep, worker, tmp_path):
    """Whoever can write to the broker would otherwise run code in the workers."""
    mark = tmp_path / "ran"
    _publish(settings, pickle.dumps(((), {"thread_id": Bait(mark)}, {})), "application/x-python-serialize")
    _publish(settings, f"!!python/object/apply:os.mkdir ['{mark}']".encode(), "application/x-yaml")
    started = worker(FLUSH)
    with keep.new() as session:
        session.append(user("after the bait"))
        session.checkpoint(wait=30)
    log = started.log()
    assert all(f"Refusing to deserialize untrusted content of type {name}" in log for name in ("pickle", "yaml")), log
    assert not mark.exists()
    pickle.loads(pickle.dumps(Bait(mark)))
    assert mark.exists(), "the bait would not have run at all"


def _publish(settings, body, content_type):
    headers = {"task": "threadkeep.flush_thread", "id": "bait", "lang": "py", "argsrepr": "", "kwargsrepr": ""}
    queue = queues(settings.broker_url)[QUEUES.index(FLUSH)]
    with make_app(settings, publisher=True).connection_for_write() as connection:
        producer = connection.Producer(exchange=queue.exchange, routing_key=queue.routing_key)
        producer.publish(body, headers=headers, content_type=content_type, content_encoding="binary", declare=[queue])
