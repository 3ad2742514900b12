"""What every hot tier promises, sync or async, on one server or a cluster."""

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from threadkeep.model import ArchiveMeta, Entry, StoredObject, ThreadRef, fresh_mark
from threadkeep.storage.archive import NO_CHAIN
from threadkeep.storage.hot import HotTier, Written
from threadkeep.storage.hot_flow import Mending, Restorable, SealedFlush, TierFlow, restored_fields
from threadkeep.storage.hot_head import Head, identity_fields
from threadkeep.storage.hot_remains import Loss
from threadkeep.storage.parts import plain_parts
from threadkeep.storage.record_ids import ID_BYTES, id_hash

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]

REF = ThreadRef.of("ticket-42")
STORED = StoredObject("k", "etag-1", 10, None, 0.0)


class HotTierContract:
    """Subclasses provide the fixtures `hot`, `flow` and `run`, which finishes a coroutine of theirs."""

    @pytest.fixture
    def now(self, run: Run[Any]) -> Run[Any]:
        return run

    def make(self, hot: HotTier, now: Run[Any], *, count: int = 0, ref: ThreadRef = REF, token: str = "me") -> Head:
        fields = identity_fields(codec="plain", state=None, labels={}, forked_from=None)
        made = now(hot.create(ref, token, plain_parts([], b"", fields), ticket="", gen=fresh_mark()))
        assert made.status == "ok"
        if count:
            self.add(hot, now, range(count), checked=0, ref=ref, token=token)
        return self.head(hot, now, ref)

    def add(
        self, hot: HotTier, now: Run[Any], numbers: Any, *, checked: int, ref: ThreadRef = REF, token: str = "me"
    ) -> Written:
        entries = [Entry(f"m{n}", "user", {"content": str(n)}) for n in numbers]
        records = [entry.to_record() for entry in entries]
        hashes = b"".join(id_hash(entry.id) for entry in entries)
        written: Written = now(hot.append(ref, token, records, hashes, checked=checked))
        return written

    def test_an_append_sets_fields_with_its_records_or_not_at_all(self, hot: HotTier, now: Run[Any]) -> None:
        self.make(hot, now)
        entry = Entry("m0", "user", "hello")
        records, ids = [entry.to_record()], id_hash("m0")
        assert now(hot.append(REF, "me", records, ids, checked=0, fields=["state", b'{"a":1}'])).status == "ok"
        assert (self.head(hot, now).state, self.head(hot, now).count) == ({"a": 1}, 1)
        assert now(hot.append(REF, "me", records, ids, checked=0, fields=["state", b'{"a":2}'])).status == "known"
        assert (self.head(hot, now).state, self.head(hot, now).count) == ({"a": 1}, 1)

    def head(self, hot: HotTier, now: Run[Any], ref: ThreadRef = REF) -> Head:
        head: Head | None = now(hot.look(ref)).head
        assert head is not None
        return head

    def sealed(self, head: Head, attempt: str) -> SealedFlush:
        return SealedFlush(
            attempt,
            head.rev,
            head.tail_count,
            head.log_bytes,
            [b"frame"],
            False,
            head.count,
            5,
            1,
            "aa",
            head.log_bytes,
        )

    def ttl(self, hot: HotTier, now: Run[Any], key: str) -> int:
        return int(now(hot.link.run("PTTL", key)))

    # --- leases -----------------------------------------------------------------------------------------------------

    def test_one_lease_at_a_time(self, hot: HotTier, now: Run[Any]) -> None:
        self.make(hot, now)
        assert now(hot.acquire(REF, "other")).status == "busy"
        assert now(hot.acquire(REF, "me")).status == "ok"
        assert now(hot.release(REF, "me", "linger", "f")).status == "enqueue"
        assert now(hot.acquire(REF, "other")).status == "ok"
        assert self.add(hot, now, [1], checked=0).status == "fenced"
        assert not now(hot.renew(REF, "me"))

    def test_no_lease_refuses_too(self, hot: HotTier, now: Run[Any]) -> None:
        self.make(hot, now)
        now(hot.release(REF, "me", "linger", "f"))
        assert self.add(hot, now, [1], checked=0).status == "fenced"
        assert now(hot.save(REF, "", ["state", b"{}"])).status == "fenced"
        assert now(hot.save(REF, "x", ["state", b"{}"])).status == "fenced"

    def test_an_absent_thread_refuses_everything(self, hot: HotTier, now: Run[Any]) -> None:
        assert now(hot.acquire(REF, "me")).status == "absent"
        assert self.add(hot, now, [1], checked=0).status == "absent"
        assert now(hot.request_flush(REF, "evict", "f")) == "absent"
        assert now(hot.look(REF)).status == "absent"

    # --- appends ----------------------------------------------------------------------------------------------------

    def test_a_repeated_append_adds_nothing(self, hot: HotTier, now: Run[Any]) -> None:
        self.make(hot, now)
        first = self.add(hot, now, range(3), checked=0)
        assert (first.status, first.count) == ("ok", 3)
        again = self.add(hot, now, range(3), checked=0)
        assert again == Written("known", first.rev, 3)
        assert self.head(hot, now).count == 3

    def test_a_batch_with_one_known_id_is_refused_whole(self, hot: HotTier, now: Run[Any]) -> None:
        self.make(hot, now, count=3)
        assert self.add(hot, now, [7, 2, 8], checked=0).status == "known"
        assert self.head(hot, now).count == 3

    def test_ids_checked_by_the_client_are_not_looked_at_again(self, hot: HotTier, now: Run[Any]) -> None:
        self.make(hot, now, count=3)
        assert self.add(hot, now, [3], checked=3).status == "ok"
        assert self.add(hot, now, [3], checked=3).status == "known"

    def test_a_large_append_is_staged_and_just_as_atomic(self, hot: HotTier, now: Run[Any]) -> None:
        self.make(hot, now)
        entries = [Entry(f"big{n}", "user", "x" * 10_000) for n in range(100)]
        records, ids = [e.to_record() for e in entries], b"".join(id_hash(e.id) for e in entries)
        assert now(hot.append(REF, "me", records, ids, checked=0)).count == 100
        assert now(hot.append(REF, "me", records, ids, checked=0)).status == "known"
        contents = now(hot.read(REF, with_ids=True))
        assert contents.tail == records
        assert contents.ids == ids

    def test_what_is_staged_may_be_sent_twice(self, hot: HotTier, now: Run[Any]) -> None:
        staging = hot.keys(REF).staging("0a")
        pieces, log, ids = staging
        for _ in range(2):
            now(hot.stage(staging, pieces=[b"one", b"two"], log=[b"record"], ids=b"x" * 32))
        assert now(hot.link.run("LLEN", pieces)) == 2
        assert now(hot.link.run("LLEN", log)) == 1
        assert now(hot.link.run("STRLEN", ids)) == 32
        assert 0 < self.ttl(hot, now, pieces) <= 600_000

    def test_revisions_only_grow(self, hot: HotTier, now: Run[Any]) -> None:
        revs = [self.make(hot, now).rev]
        for n in range(5):
            revs.append(self.add(hot, now, [n], checked=n).rev)
            revs.append(now(hot.save(REF, "me", ["state", b"{}"])).rev)
        assert revs == sorted(set(revs))

    # --- what may expire --------------------------------------------------------------------------------------------

    def test_a_dirty_or_leased_thread_never_expires(self, hot: HotTier, flow: TierFlow, now: Run[Any]) -> None:
        self.make(hot, now, count=1)
        for key in (hot.keys(REF).head, hot.keys(REF).log, hot.keys(REF).ids):
            assert self.ttl(hot, now, key) == -1
        now(hot.release(REF, "me", "linger", "f"))
        assert self.ttl(hot, now, hot.keys(REF).head) == -1
        self.flush(hot, flow, now, mode="linger")
        assert self.ttl(hot, now, hot.keys(REF).head) > 0
        assert self.ttl(hot, now, hot.keys(REF).base) > 0
        assert now(hot.acquire(REF, "me")).status == "ok"
        assert self.ttl(hot, now, hot.keys(REF).head) == -1

    def test_a_missing_key_makes_the_whole_thread_absent(self, hot: HotTier, flow: TierFlow, now: Run[Any]) -> None:
        self.make(hot, now, count=2)
        now(hot.release(REF, "me", "linger", "f"))
        self.flush(hot, flow, now, mode="linger")
        for part in ("base", "ids", "head"):
            now(hot.link.run("DEL", getattr(hot.keys(REF), part)))
            assert now(hot.look(REF)).status == "absent"
            assert now(hot.read(REF)) is None
            self.make(hot, now, count=2)
            now(hot.release(REF, "me", "linger", "f"))
            self.flush(hot, flow, now, mode="linger")

    # --- changes ----------------------------------------------------------------------------------------------------

    def test_a_truncation_knows_its_own_success(self, hot: HotTier, now: Run[Any]) -> None:
        head = self.make(hot, now, count=5)
        cut = now(hot.truncate(REF, "me", head, keep=2, cut_bytes=0, gen="0b"))
        assert (cut.status, cut.count) == ("ok", 2)
        assert now(hot.truncate(REF, "me", head, keep=2, cut_bytes=0, gen="0b")) == cut
        assert now(hot.truncate(REF, "me", head, keep=1, cut_bytes=0, gen="0c")).status == "moved"
        assert self.add(hot, now, [2, 3], checked=2).status == "ok"

    def test_a_rewrite_is_all_or_nothing(self, hot: HotTier, now: Run[Any]) -> None:
        head = self.make(hot, now, count=5)
        entries = [Entry(f"n{n}", "user", n) for n in range(3)]
        parts = plain_parts([e.to_record() for e in entries], b"".join(id_hash(e.id) for e in entries))
        assert now(hot.rewrite(REF, "other", head, parts, gen="0b")).status == "fenced"
        assert now(hot.rewrite(REF, "me", head, parts, gen="0b")).count == 3
        assert now(hot.rewrite(REF, "me", head, parts, gen="0b")).count == 3
        assert now(hot.read(REF)).tail == [e.to_record() for e in entries]

    def test_create_needs_an_absent_thread_and_its_ticket(self, hot: HotTier, flow: TierFlow, now: Run[Any]) -> None:
        parts = plain_parts([], b"", identity_fields(codec="plain", state=None, labels={}, forked_from=None))
        assert now(hot.create(REF, "me", parts, ticket="0a", gen="01")).status == "stale"
        asked = now(hot.ask(REF, keep=5))
        assert now(hot.create(REF, "me", parts, ticket=asked.ticket, gen="01")).status == "stale"
        assert now(flow.tell(REF, asked.ticket, "absent"))
        assert now(hot.create(REF, "me", parts, ticket=asked.ticket, gen="01")).status == "ok"
        assert now(hot.create(REF, "me", parts, ticket=asked.ticket, gen="01")).status == "ok"
        assert now(hot.create(REF, "me", parts, ticket=asked.ticket, gen="02")).status == "exists"

    # --- requests ---------------------------------------------------------------------------------------------------

    def test_requests_coalesce_and_keep_the_strongest_mode(self, hot: HotTier, flow: TierFlow, now: Run[Any]) -> None:
        self.make(hot, now, count=1)
        assert now(hot.request_flush(REF, "checkpoint", "f1")) == "enqueue"
        assert now(hot.request_flush(REF, "evict", "f2")) == "coalesced"
        assert now(hot.request_flush(REF, "linger", "f3")) == "coalesced"
        start = now(flow.begin_flush(REF, fresh_mark(), "checkpoint"))
        assert (start.status, start.mode) == ("go", "evict")
        assert now(hot.request_flush(REF, "linger", "f4")) == "enqueue"
        now(hot.withdraw(REF, "flush", "f-other"))
        assert now(hot.request_flush(REF, "linger", "f5")) == "coalesced"
        now(hot.withdraw(REF, "flush", "f4"))
        assert now(hot.request_flush(REF, "linger", "f6")) == "enqueue"

    def test_asks_coalesce_and_share_one_ticket(self, hot: HotTier, now: Run[Any]) -> None:
        first = now(hot.ask(REF, keep=5))
        second = now(hot.ask(REF, keep=5))
        assert (first.status, second.status) == ("enqueue", "asked")
        assert first.ticket == second.ticket
        now(hot.withdraw(REF, "hydrate", first.token))
        assert now(hot.ask(REF, keep=5)).status == "enqueue"

    # --- flush ------------------------------------------------------------------------------------------------------

    def flush(self, hot: HotTier, flow: TierFlow, now: Run[Any], *, mode: Any, between: Any = None) -> Any:
        attempt = fresh_mark()
        start = now(flow.begin_flush(REF, attempt, mode))
        assert start.head is not None
        sealed = self.sealed(start.head, attempt)
        if between is not None:
            between()
        return now(flow.settle(REF, sealed, STORED, gen=start.head.gen, mode=start.mode))

    def test_a_settled_flush_trims_exactly_what_was_sealed(self, hot: HotTier, flow: TierFlow, now: Run[Any]) -> None:
        self.make(hot, now, count=3)
        settled = self.flush(hot, flow, now, mode="evict", between=lambda: self.add(hot, now, [3, 4], checked=3))
        assert settled.status == "kept"
        head = self.head(hot, now)
        assert (head.count, head.base_count, head.pieces, head.etag) == (5, 3, 1, "etag-1")
        assert head.dirty
        assert [Entry.from_record(r).id for r in now(hot.link.run("LRANGE", hot.keys(REF).log, 0, -1))] == ["m3", "m4"]

    def test_a_clean_unleased_thread_leaves_when_evicted(self, hot: HotTier, flow: TierFlow, now: Run[Any]) -> None:
        self.make(hot, now, count=3)
        now(hot.release(REF, "me", "linger", "f"))
        assert self.flush(hot, flow, now, mode="evict").status == "evicted"
        assert now(hot.look(REF)).status == "absent"

    def test_a_leased_thread_is_archived_but_stays(self, hot: HotTier, flow: TierFlow, now: Run[Any]) -> None:
        self.make(hot, now, count=3)
        assert self.flush(hot, flow, now, mode="evict").status == "kept"
        assert not self.head(hot, now).dirty
        assert self.ttl(hot, now, hot.keys(REF).head) == -1

    def test_a_flush_whose_thread_was_rewritten_changes_nothing(
        self, hot: HotTier, flow: TierFlow, now: Run[Any]
    ) -> None:
        self.make(hot, now, count=3)
        head = self.head(hot, now)
        cut = lambda: now(hot.truncate(REF, "me", head, keep=1, cut_bytes=0, gen="0b"))  # noqa: E731
        assert self.flush(hot, flow, now, mode="linger", between=cut).status == "still_hot"
        assert self.head(hot, now).count == 1

    def test_only_a_listed_attempt_may_settle(self, hot: HotTier, flow: TierFlow, now: Run[Any]) -> None:
        self.make(hot, now, count=1)
        head = self.head(hot, now)
        settled = now(flow.settle(REF, self.sealed(head, "ffff"), STORED, gen=head.gen, mode="linger"))
        assert settled.status == "still_hot"

    def test_settling_twice_does_no_harm(self, hot: HotTier, flow: TierFlow, now: Run[Any]) -> None:
        self.make(hot, now, count=3)
        attempt = fresh_mark()
        start = now(flow.begin_flush(REF, attempt, "linger"))
        sealed = self.sealed(start.head, attempt)
        assert now(flow.settle(REF, sealed, STORED, gen=start.head.gen, mode="linger")).status == "kept"
        assert now(flow.settle(REF, sealed, STORED, gen=start.head.gen, mode="linger")).status == "still_hot"
        assert self.head(hot, now).base_count == 3

    def test_a_head_lists_at_most_32_attempts(self, hot: HotTier, flow: TierFlow, now: Run[Any]) -> None:
        self.make(hot, now, count=1)
        for _ in range(40):
            now(flow.begin_flush(REF, fresh_mark(), "linger"))
        assert len(self.head(hot, now).attempts.split()) == 32

    def test_a_copy_whose_archive_is_damaged_is_dirty_and_stays(
        self, hot: HotTier, flow: TierFlow, now: Run[Any]
    ) -> None:
        self.make(hot, now, count=3)
        now(hot.release(REF, "me", "linger", "f"))
        self.flush(hot, flow, now, mode="linger")
        before = self.head(hot, now)
        assert not before.dirty
        assert now(flow.distrust(REF, before, "damaged-1"))
        after = self.head(hot, now)
        assert (after.dirty, after.etag, after.count, after.rev > before.rev) == (True, "damaged-1", 3, True)
        assert after.gen != before.gen
        assert {self.ttl(hot, now, getattr(hot.keys(REF), part)) for part in ("head", "base", "ids")} == {-1}
        assert [ref for ref in now(collected(flow.index())) if ref == REF]
        assert not now(flow.distrust(REF, before, "damaged-1"))

    def test_a_thread_that_changed_since_it_was_read_is_not_distrusted(
        self, hot: HotTier, flow: TierFlow, now: Run[Any]
    ) -> None:
        head = self.make(hot, now, count=1)
        self.add(hot, now, [1], checked=1)
        before = self.head(hot, now)
        assert not now(flow.distrust(REF, head, "damaged-1"))
        assert self.head(hot, now) == before
        assert not now(flow.distrust(ThreadRef.of("nowhere"), head, "damaged-1"))

    # --- hydrate ----------------------------------------------------------------------------------------------------

    def restorable(self, *, rev: int = 7) -> Restorable:
        fields = [
            *identity_fields(codec="plain", state=b'{"a":1}', labels={}, forked_from=None),
            *restored_fields(STORED, base_bytes=5, frames=1, chain=NO_CHAIN, raw_bytes=9, born=3),
        ]
        return Restorable([b"frame"], id_hash("m0"), rev, rev, fields)

    def test_a_restore_needs_its_ticket(self, hot: HotTier, flow: TierFlow, now: Run[Any]) -> None:
        start = now(flow.begin_hydrate(REF))
        assert start.status == "go"
        assert now(flow.restore(REF, "0a", self.restorable())).status == "refused"
        assert now(flow.restore(REF, start.ticket, self.restorable())).status == "restored"
        assert now(flow.restore(REF, start.ticket, self.restorable())).status == "present"
        head = self.head(hot, now)
        assert (head.rev, head.archived, head.state, head.born) == (7, 7, {"a": 1}, 3)
        assert self.ttl(hot, now, hot.keys(REF).head) > 0

    def test_a_thread_made_meanwhile_wins_over_a_restore(self, hot: HotTier, flow: TierFlow, now: Run[Any]) -> None:
        start = now(flow.begin_hydrate(REF))
        self.make(hot, now, count=1)
        assert now(flow.restore(REF, start.ticket, self.restorable())).status == "present"
        now(hot.release(REF, "me", "linger", "f"))
        self.flush(hot, flow, now, mode="evict")
        assert now(flow.restore(REF, start.ticket, self.restorable())).status == "refused"
        assert now(hot.look(REF)).status == "absent"

    def test_a_copy_restored_for_somebody_is_kept_until_he_can_arrive(
        self, hot: HotTier, flow: TierFlow, now: Run[Any]
    ) -> None:
        now(hot.ask(REF, keep=300))
        start = now(flow.begin_hydrate(REF))
        now(flow.restore(REF, start.ticket, self.restorable()))
        assert self.ttl(hot, now, hot.keys(REF).head) > 250_000
        assert now(flow.leave(REF, self.head(hot, now), "evict")).status == "lingers"
        assert 250_000 < self.ttl(hot, now, hot.keys(REF).head) <= 300_000

    # --- what Redis loses -------------------------------------------------------------------------------------------

    def break_up(self, hot: HotTier, now: Run[Any], *parts: str) -> None:
        now(hot.link.run("DEL", *(getattr(hot.keys(REF), part) for part in parts)))

    def test_what_is_left_of_a_thread_is_told(self, hot: HotTier, flow: TierFlow, now: Run[Any]) -> None:
        assert now(hot.look(REF)).remains is None
        head = self.make(hot, now, count=3)
        self.break_up(hot, now, "ids")
        remains = now(flow.begin_hydrate(REF)).remains
        assert remains == now(hot.look(REF)).remains
        assert (remains.head.rev, remains.broken, remains.mendable) == (head.rev, ["ids"], True)
        self.break_up(hot, now, "log")
        assert now(hot.look(REF)).remains.broken == ["log", "ids"]
        assert not now(hot.look(REF)).remains.mendable
        self.break_up(hot, now, "head")
        remains = now(hot.look(REF)).remains
        assert (remains.head, remains.rev // 10**6 - head.rev // 10**6 in (0, 1)) == (None, True)

    def test_a_broken_thread_stays_in_the_index_unless_it_is_clean(
        self, hot: HotTier, flow: TierFlow, now: Run[Any]
    ) -> None:
        self.make(hot, now, count=1)
        self.flush(hot, flow, now, mode="checkpoint")
        self.add(hot, now, [1], checked=1)
        self.break_up(hot, now, "base")
        assert [now(flow.lapse_many([REF]))[0].status for _ in range(2)] == ["broken"] * 2
        self.break_up(hot, now, "head")
        assert now(flow.lapse_many([REF]))[0].status == "broken"
        now(flow.erase_unmark(REF, now(flow.erase_mark(REF, "r1", 0)), "{}", buried=0))
        self.make(hot, now, count=1)
        self.flush(hot, flow, now, mode="checkpoint")
        self.break_up(hot, now, "ids")
        assert now(flow.lapse_many([REF]))[0].status == "dropped"
        assert now(hot.look(REF)).remains is None

    def test_a_thread_is_mended_only_as_it_was_found_and_under_its_ticket(
        self, hot: HotTier, flow: TierFlow, now: Run[Any]
    ) -> None:
        self.make(hot, now, count=2)
        ids = now(hot.ids(REF))
        self.break_up(hot, now, "ids")
        start = now(flow.begin_hydrate(REF))
        head, mending = start.remains.head, Mending([], ids, ["chain", NO_CHAIN])
        assert now(flow.mend(REF, "0a", head, mending)) == "refused"
        assert now(flow.mend(REF, start.ticket, replace(head, rev=head.rev + 1), mending)) == "moved"
        assert now(flow.mend(REF, start.ticket, head, Mending([], ids[:ID_BYTES], []))) == "unstaged"
        assert now(flow.mend(REF, start.ticket, head, mending)) == "mended"
        assert now(flow.mend(REF, start.ticket, head, mending)) == "present"
        mended = self.head(hot, now)
        assert (mended.rev, mended.lease, mended.gen != head.gen) == (head.rev, "me", True)
        assert self.ttl(hot, now, hot.keys(REF).ids) == -1
        assert self.add(hot, now, [1, 2], checked=0).status == "known"

    def test_a_log_that_is_gone_cannot_be_mended(self, hot: HotTier, flow: TierFlow, now: Run[Any]) -> None:
        self.make(hot, now, count=2)
        ids = now(hot.ids(REF))
        self.break_up(hot, now, "ids", "log")
        start = now(flow.begin_hydrate(REF))
        assert now(flow.mend(REF, start.ticket, start.remains.head, Mending([], ids, []))) == "moved"

    def test_a_loss_waits_for_whoever_asks_first_and_is_said_once(
        self, hot: HotTier, flow: TierFlow, now: Run[Any]
    ) -> None:
        self.make(hot, now, count=2)
        self.break_up(hot, now, "log")
        start = now(flow.begin_hydrate(REF))
        assert now(flow.tell_lost(REF, start.ticket, Loss(9, 3)))
        assert not now(flow.tell_lost(REF, "0a", Loss(9, 3)))
        assert (now(hot.look(REF)).verdict, now(hot.look(REF)).remains) == ("lost", None)
        assert self.ttl(hot, now, hot.keys(REF).ticket) > 86_400_000
        assert now(flow.begin_hydrate(REF)).status == "untold"
        asked = now(hot.ask(REF, keep=5))
        assert (asked.status, Loss.parse(asked.reason)) == ("lost", Loss(9, 3))
        assert now(hot.ask(REF, keep=5)).status == "enqueue"
        assert now(flow.begin_hydrate(REF)).status == "go"

    def test_who_waited_and_heard_of_a_loss_is_not_told_again(
        self, hot: HotTier, flow: TierFlow, now: Run[Any]
    ) -> None:
        self.make(hot, now, count=2)
        self.break_up(hot, now, "log")
        asked = now(hot.ask(REF, keep=5))
        start = now(flow.begin_hydrate(REF))
        assert start.ticket == asked.ticket
        now(flow.tell_lost(REF, start.ticket, Loss(9, 3)))
        now(hot.heard(REF, "0a"))
        assert now(flow.begin_hydrate(REF)).status == "untold"
        now(hot.heard(REF, start.ticket))
        assert now(hot.look(REF)).verdict == "lost"
        assert now(hot.ask(REF, keep=5)).status == "enqueue"

    def test_remains_that_cannot_be_mended_now_leave_the_index_and_stay(
        self, hot: HotTier, flow: TierFlow, now: Run[Any]
    ) -> None:
        self.make(hot, now, count=2)
        self.break_up(hot, now, "ids")
        start = now(flow.begin_hydrate(REF))
        assert now(flow.tell(REF, start.ticket, "failed", "damaged", remains="shelved"))
        assert now(collected(flow.index())) == []
        assert now(flow.begin_hydrate(REF)).remains.broken == ["ids"]

    def test_every_write_that_comes_behind_a_fall_is_told_and_the_fall_remembered(
        self, hot: HotTier, flow: TierFlow, now: Run[Any]
    ) -> None:
        head = self.make(hot, now, count=2)
        entry, told = Entry("n", "user", "n"), head.rev + 1
        records, ids = [entry.to_record()], id_hash("n")
        parts = plain_parts(records, ids)
        for token in ("me", "fenced"):
            assert now(hot.append(REF, token, records, ids, checked=2, told=told)).status == "behind"
            assert now(hot.save(REF, token, ["state", b"{}"], told=told)).status == "behind"
            cut = hot.truncate(REF, token, head, keep=1, cut_bytes=0, gen="0b", told=told)
            assert now(cut).status == "behind"
            assert now(hot.rewrite(REF, token, head, parts, gen="0b", told=told)).status == "behind"
        assert replace(self.head(hot, now), lost="") == head
        assert Loss.parse(self.head(hot, now).lost) == Loss(told, head.rev)
        now(flow.loss_noted(REF))
        assert self.head(hot, now) == head
        assert now(hot.save(REF, "me", ["state", b"{}"], told=head.rev)).status == "ok"

    def test_a_release_after_a_fall_says_so_and_asks_for_a_flush(
        self, hot: HotTier, flow: TierFlow, now: Run[Any]
    ) -> None:
        self.make(hot, now, count=1)
        self.flush(hot, flow, now, mode="checkpoint")
        head = self.head(hot, now)
        left = now(hot.release(REF, "me", "evict", "f", told=head.rev + 1))
        assert (left.status, left.rev) == ("enqueue", head.rev)
        assert (self.head(hot, now).lease, self.head(hot, now).lost != "") == ("", True)
        assert now(hot.release(REF, "me", "evict", "f", told=head.rev + 1)).status == "fenced"

    def test_a_debt_is_paid_only_by_who_told_what_was_so_then_or_later(
        self, hot: HotTier, flow: TierFlow, now: Run[Any]
    ) -> None:
        before = now(hot.clock(REF))
        now(flow.owe(REF))
        now(flow.paid(REF, before))
        assert now(collected(flow.owed())) == [REF]
        now(flow.paid(REF, now(hot.clock(REF))))
        assert now(collected(flow.owed())) == []

    def test_debts_of_an_earlier_version_are_dated(self, hot: HotTier, flow: TierFlow, now: Run[Any]) -> None:
        now(hot.link.run("SADD", hot.keys(REF).all[9], REF.member))
        assert now(collected(flow.owed())) == [REF]
        now(flow.paid(REF, now(hot.clock(REF))))
        assert now(collected(flow.owed())) == []

    # --- runs that do not end, sweep, erase -------------------------------------------------------------------------

    def test_runs_that_never_end_are_counted_and_set_aside(self, hot: HotTier, flow: TierFlow, now: Run[Any]) -> None:
        self.make(hot, now, count=1)
        statuses = [now(flow.begin_flush(REF, fresh_mark(), "linger", run="task-1")).status for _ in range(7)]
        assert statuses == ["go"] * 5 + ["set_aside"] * 2
        assert now(collected(flow.unfinished())) == [("flush", REF, 6)]
        now(flow.forget_runs(REF, "flush"))
        assert now(flow.begin_flush(REF, fresh_mark(), "linger", run="task-1")).status == "go"

    def test_runs_at_the_same_time_are_not_counted_as_dead(self, hot: HotTier, flow: TierFlow, now: Run[Any]) -> None:
        self.make(hot, now, count=1)
        other = ThreadRef.of("cold")
        for number in range(10):
            assert now(flow.begin_flush(REF, fresh_mark(), "linger", run=f"task-{number}")).status == "go"
            assert now(flow.begin_hydrate(other, run=f"task-{number}")).status == "go"

    def test_a_mode_stays_wanted_until_a_flush_succeeds(self, hot: HotTier, flow: TierFlow, now: Run[Any]) -> None:
        self.make(hot, now, count=1)
        now(hot.release(REF, "me", "evict", "f"))
        assert now(flow.begin_flush(REF, fresh_mark(), "linger")).mode == "evict"
        assert now(flow.begin_flush(REF, fresh_mark(), "linger")).mode == "evict"

    def test_the_index_holds_what_is_hot_and_nothing_else(self, hot: HotTier, flow: TierFlow, now: Run[Any]) -> None:
        self.make(hot, now, count=1)
        assert now(collected(flow.index())) == [REF]
        now(hot.release(REF, "me", "linger", "f"))
        assert now(flow.lapse_many([REF]))[0].status == "hot"
        self.flush(hot, flow, now, mode="evict")
        assert now(collected(flow.index())) == []
        assert now(flow.lapse_many([REF]))[0].status == "dropped"

    def test_an_erasure_refuses_everything_until_it_is_done(self, hot: HotTier, flow: TierFlow, now: Run[Any]) -> None:
        head = self.make(hot, now, count=1)
        assert now(flow.erase_mark(REF, "r0", head.born - 1)).status == "newer"
        upto = head.rev + 10**9
        mark = now(flow.erase_mark(REF, "r1", upto))
        assert (mark.status, mark.request, mark.upto, mark.standing) == ("marked", "r1", upto, False)
        assert mark.rev > upto
        assert mark.noted == {"hot_rev": head.rev, "hot_count": 1}
        assert self.add(hot, now, [5], checked=1).status == "erasing"
        assert now(flow.begin_hydrate(REF)).status == "erasing"
        assert now(flow.begin_flush(REF, "aa", "linger")).status == "erasing"
        assert now(hot.ask(REF, keep=1)).status == "erasing"
        assert now(flow.lapse_many([REF]))[0].request == "r1"
        assert not now(flow.erase_unmark(REF, replace(mark, mark="r0 1"), "{}", buried=0))
        assert now(flow.erase_unmark(REF, mark, "{}", buried=mark.rev))
        assert not now(flow.erase_unmark(REF, mark, "{}", buried=mark.rev))
        assert now(flow.erase_mark(REF, "r1", 0)).status == "done"
        self.make(hot, now)

    def test_a_mark_that_its_request_set_stands_until_it_is_done(
        self, hot: HotTier, flow: TierFlow, now: Run[Any]
    ) -> None:
        head = self.make(hot, now, count=2)
        mark = now(hot.mark_erasing(REF, "r1"))
        assert (mark.status, mark.standing, mark.upto >= head.rev) == ("marked", True, True)
        assert now(hot.mark_erasing(REF, "r1")) == mark
        joined = now(hot.mark_erasing(REF, "r2"))
        assert (joined.status, joined.request, joined.upto) == ("under_way", "r1", mark.upto)
        assert now(flow.erase_mark(REF, "r1", mark.upto)) == mark
        assert now(flow.erase_mark(REF, "r3", mark.upto)).status == "under_way"

    def test_a_request_takes_over_from_a_mark_that_does_not_stand(
        self, hot: HotTier, flow: TierFlow, now: Run[Any]
    ) -> None:
        early = now(flow.erase_mark(REF, "r1", 5))
        mark = now(hot.mark_erasing(REF, "r2"))
        assert (mark.status, mark.request, mark.standing, mark.rev >= early.rev) == ("marked", "r2", True, True)
        assert not now(flow.erase_note(REF, early, "versions", 1))
        assert not now(flow.erase_unmark(REF, early, "{}", buried=0))
        assert now(flow.lapse_many([REF]))[0].request == "r2"

    def test_what_an_erasure_removes_is_counted_over_its_repeats(
        self, hot: HotTier, flow: TierFlow, now: Run[Any]
    ) -> None:
        mark = now(hot.mark_erasing(REF, "r1"))
        assert now(flow.erase_note(REF, mark, "versions", 4))
        assert now(flow.erase_note(REF, mark, "versions", 2))
        assert now(flow.erase_mark(REF, "r1", 1)).noted == {"versions": 4}
        now(hot.link.run("DEL", hot.keys(REF).all[6]))
        assert not now(flow.erase_note(REF, mark, "versions", 5))
        assert now(hot.look(REF)).status == "absent"

    def test_a_mark_set_again_after_it_was_lost_is_another(self, hot: HotTier, flow: TierFlow, now: Run[Any]) -> None:
        """A worker that worked under the first one cannot know what was created in between."""
        first = now(hot.mark_erasing(REF, "r1"))
        now(hot.link.run("DEL", hot.keys(REF).all[6]))
        again = now(flow.erase_mark(REF, "r1", first.upto))
        assert (again.request, again.standing) == ("r1", False)
        assert not now(flow.erase_note(REF, first, "versions", 1))
        assert not now(flow.erase_unmark(REF, first, "{}", buried=0))
        assert now(flow.erase_unmark(REF, again, "{}", buried=0))

    def test_a_grave_is_looked_at_again_once_it_is_due(self, hot: HotTier, flow: TierFlow, now: Run[Any]) -> None:
        mark = now(hot.mark_erasing(REF, "r1"))
        now(flow.erase_unmark(REF, mark, "{}", buried=mark.rev))
        later = now(hot.clock(REF)) // 1000 + 10**9
        assert now(collected(flow.graves(now(hot.clock(REF)) // 1000))) == []
        assert now(collected(flow.graves(later))) == [(REF, mark.rev)]
        now(flow.postpone_grave(REF, mark.rev, later + 1))
        assert now(collected(flow.graves(later))) == []
        now(flow.close_grave(REF, mark.rev))
        now(flow.postpone_grave(REF, mark.rev, later))
        assert now(collected(flow.graves(later + 1))) == []

    def test_a_thread_made_over_a_tombstone_is_born_after_it(self, hot: HotTier, flow: TierFlow, now: Run[Any]) -> None:
        ahead = now(hot.clock(REF)) + 10**12
        parts = plain_parts([], b"", identity_fields(codec="plain", state=None, labels={}, forked_from=None))
        asked = now(hot.ask(REF, keep=5))
        assert now(flow.tell(REF, asked.ticket, "absent", floor=ahead))
        assert now(hot.look(REF)).floor == ahead
        made = now(hot.create(REF, "me", parts, ticket=asked.ticket, gen="01"))
        assert (made.head.born, made.head.rev) == (ahead + 1, ahead + 1)
        assert self.add(hot, now, [0], checked=0).rev == ahead + 2

    def test_a_thread_that_meets_a_tombstone_was_born_after_it(
        self, hot: HotTier, flow: TierFlow, now: Run[Any]
    ) -> None:
        head = self.make(hot, now, count=1)
        attempt, ahead = fresh_mark(), head.rev + 10**12
        now(flow.begin_flush(REF, attempt, "linger"))
        grave = ArchiveMeta(ahead, "feed", "", 0, 0, tombstone=True)
        assert now(flow.adopt(REF, attempt, replace(STORED, meta=replace(grave, tombstone=False))))
        assert (self.head(hot, now).born, self.head(hot, now).rev) == (head.born, ahead + 1)
        assert now(flow.adopt(REF, attempt, replace(STORED, meta=grave)))
        assert (self.head(hot, now).born, self.head(hot, now).rev) == (ahead + 1, ahead + 1)


async def collected(items: Any) -> list[Any]:
    """An async iterator's items."""
    return [item async for item in items]
