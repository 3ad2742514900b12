"""What every `Catalog` promises, as a pytest suite.

Subclass `CatalogContract` under a name that starts with Test, and override its fixture `catalog` to give each
test an empty catalog.
"""

import random
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import permutations

import pytest

from threadkeep.model import ThreadRef, ThreadStat
from threadkeep.storage.ports import (
    Catalog,
    CatalogEntry,
    CatalogEvent,
    CatalogFilter,
    CatalogRow,
    RowRevs,
    TierTotals,
)
from threadkeep.testing.catalog_histories import (
    FIRST_FLUSH,
    HOT_AGAIN,
    HOT_SINCE_BIRTH,
    LIFE,
    NEXT_FLUSH,
    NEXT_LIFE,
    NOWHERE,
    SECOND_FLUSH,
    a_thread,
    acted,
    erasing,
    found,
    nameless,
    paged,
    recorded,
    recording,
    seen,
    stamps,
    undescribed,
)


class CatalogContract:
    @pytest.fixture
    def catalog(self) -> Catalog:
        raise NotImplementedError

    @pytest.fixture
    def ref(self) -> ThreadRef:
        return a_thread()

    # --- one thread ---

    def test_a_thread_never_recorded_is_not_there(self, catalog: Catalog, ref: ThreadRef) -> None:
        assert catalog.get(ref) is None
        assert catalog.events(ref) == []

    def test_every_column_of_a_row_is_read_back(self, catalog: Catalog, ref: ThreadRef) -> None:
        source = ThreadRef("acme", "a/b")
        catalog.record([replace(FIRST_FLUSH, ref=ref, born=1_700_000_000_123_456, forked_from=source.member)])
        assert catalog.get(ref) == CatalogEntry(
            ThreadStat(
                ref.namespace,
                ref.thread_id,
                "cold",
                cached=True,
                rev=20,
                archived_rev=20,
                count=4,
                raw_bytes=400,
                stored_bytes=100,
                etag="e1",
                born=1_700_000_000_123_456,
                codec="openai",
                labels={"plan": "pro"},
                forked_from=source.member,
            ),
            object_key="threads/messages/x.ndjson.zst",
            version_id="v1",
            chain="c1",
            cached_until=4e9,
            created_at=1_700_000_000.123456,
            active_at=20.0,
            archived_at=21.5,
            erased_at=None,
        )

    def test_what_no_row_has_named_is_zero_or_none(self, catalog: Catalog, ref: ThreadRef) -> None:
        catalog.record([CatalogRow(ref, "hot", stamp=1, rev=7)])
        assert catalog.get(ref) == undescribed(ThreadStat(ref.namespace, ref.thread_id, "hot", cached=True, rev=7))

    def test_none_leaves_what_is_known(self, catalog: Catalog, ref: ThreadRef) -> None:
        catalog.record([replace(FIRST_FLUSH, ref=ref)])
        catalog.record([CatalogRow(ref, "cold", stamp=21, rev=20, archived_rev=20)])
        assert catalog.get(ref) == recorded(catalog, [FIRST_FLUSH], like=ref)

    def test_a_newer_object_keeps_nothing_of_the_older_ones_description(self, catalog: Catalog, ref: ThreadRef) -> None:
        catalog.record([replace(FIRST_FLUSH, ref=ref)])
        catalog.record([CatalogRow(ref, "cold", stamp=31, rev=30, archived_rev=30, etag="e2")])
        entry = found(catalog, ref)
        assert (entry.stat.etag, entry.version_id, entry.chain, entry.stat.stored_bytes) == (
            "e2",
            None,
            None,
            0,
        )

    def test_a_newer_revision_without_a_description_leaves_the_last_one_known(
        self, catalog: Catalog, ref: ThreadRef
    ) -> None:
        catalog.record([replace(FIRST_FLUSH, ref=ref), CatalogRow(ref, "cold", stamp=31, rev=30, archived_rev=30)])
        entry = found(catalog, ref)
        assert (entry.stat.archived_rev, entry.stat.etag, entry.chain) == (30, "e1", "c1")

    def test_the_message_count_is_that_of_the_newest_revision_archived_or_not(
        self, catalog: Catalog, ref: ThreadRef
    ) -> None:
        catalog.record([replace(row, ref=ref) for row in (HOT_AGAIN, FIRST_FLUSH)])
        assert found(catalog, ref).stat.count == 6

    def test_an_evicted_thread_is_no_longer_cached(self, catalog: Catalog, ref: ThreadRef) -> None:
        catalog.record([replace(FIRST_FLUSH, ref=ref)])
        assert found(catalog, ref).stat.cached
        catalog.record([CatalogRow(ref, "cold", stamp=22, rev=20, archived_rev=20)])
        assert not found(catalog, ref).stat.cached
        assert found(catalog, ref).cached_until is None

    def test_a_cached_copy_is_gone_once_its_time_has_passed(self, catalog: Catalog, ref: ThreadRef) -> None:
        catalog.record([replace(FIRST_FLUSH, ref=ref, cached_until=1_000.0)])
        assert not found(catalog, ref).stat.cached

    def test_many_rows_are_read_at_once_whatever_their_ids(self, catalog: Catalog) -> None:
        refs = [
            ThreadRef(namespace, name) for namespace in ("n", "é", "a b") for name in ("t", "'", "中", "a\\b", "{}")
        ]
        catalog.record(CatalogRow(ref, "hot", stamp=1, rev=number + 1) for number, ref in enumerate(refs))
        catalog.erase(refs[0], request_id="r", rev=9)
        absent = [ThreadRef("é", "n"), ThreadRef("n", "nothing")]
        assert catalog.get_many([*refs, *absent, refs[3]]) == {ref: catalog.get(ref) for ref in refs}
        assert catalog.get_many(absent) == catalog.get_many([]) == {}

    # --- set right ---

    def test_a_row_that_claims_too_much_is_replaced_by_what_is_so(self, catalog: Catalog, ref: ThreadRef) -> None:
        truth = replace(FIRST_FLUSH, ref=ref, version_id=None, cached_until=None)
        expected = recorded(catalog, [replace(truth, codec=None, labels=None)], like=ref)
        lie = replace(
            SECOND_FLUSH, ref=ref, tier="hot", stamp=10**15, rev=90, archived_rev=80, born=70, count=99, version_id="v9"
        )
        catalog.record([lie, replace(truth, codec=None, labels=None)])
        assert found(catalog, ref).stat.archived_rev == 80
        assert catalog.replace([(replace(truth, codec=None, labels=None), found(catalog, ref))]) == {ref}
        entry = found(catalog, ref)
        assert replace(entry, stat=replace(entry.stat, codec="plain", labels={})) == expected
        assert entry.revs == RowRevs(stamp=21, object=20, labels=None, count=20)

    def test_a_replacement_keeps_what_it_cannot_tell(self, catalog: Catalog, ref: ThreadRef) -> None:
        lives = replace(FIRST_FLUSH, ref=ref, forked_from=NOWHERE.member)
        catalog.record([lives, replace(SECOND_FLUSH, ref=ref, archived_rev=80)])
        assert catalog.replace([(replace(lives, codec=None, labels=None, forked_from=None), found(catalog, ref))])
        assert found(catalog, ref) == recorded(catalog, [lives], like=ref)
        assert found(catalog, ref).revs.labels == 20
        assert catalog.replace([(replace(lives, labels={}, forked_from=None), found(catalog, ref))])
        assert (found(catalog, ref).stat.forked_from, found(catalog, ref).stat.labels) == (None, {})

    def test_a_row_that_changed_since_it_was_read_is_not_replaced(self, catalog: Catalog, ref: ThreadRef) -> None:
        catalog.record([replace(FIRST_FLUSH, ref=ref)])
        read = found(catalog, ref)
        for change in (SECOND_FLUSH, replace(SECOND_FLUSH, stamp=99), replace(HOT_AGAIN, rev=40)):
            catalog.record([replace(change, ref=ref)])
            before = found(catalog, ref)
            assert catalog.replace([(replace(FIRST_FLUSH, ref=ref), read)]) == set()
            assert found(catalog, ref) == before
        assert catalog.replace([(replace(FIRST_FLUSH, ref=a_thread()), read)]) == set()
        assert catalog.replace([]) == set()

    def test_what_is_told_after_a_replacement_merges_as_ever(self, catalog: Catalog) -> None:
        expected = nameless(found(catalog, seen(catalog, LIFE)))
        ref = seen(catalog, [replace(SECOND_FLUSH, rev=90, archived_rev=90, stamp=90, born=80, active_at=90.0)])
        catalog.replace([(replace(FIRST_FLUSH, ref=ref), found(catalog, ref))])
        catalog.record([replace(row, ref=ref) for row in reversed(LIFE)])
        assert nameless(found(catalog, ref)) == expected

    def test_an_erased_row_is_replaced_only_by_a_later_life(self, catalog: Catalog, ref: ThreadRef) -> None:
        catalog.record([replace(FIRST_FLUSH, ref=ref)])
        catalog.erase(ref, request_id="r1", rev=25)
        assert catalog.replace([(replace(FIRST_FLUSH, ref=ref), found(catalog, ref))]) == set()
        assert found(catalog, ref).erased_at is not None
        assert catalog.replace([(replace(NEXT_FLUSH, ref=ref), found(catalog, ref))]) == {ref}
        assert (found(catalog, ref).erased_at, found(catalog, ref).stat.rev) == (None, 60)
        assert found(catalog, ref).revs.erased == 25

    def test_of_many_who_replace_a_row_at_once_one_does(self, catalog: Catalog) -> None:
        refs = [a_thread() for _ in range(20)]
        catalog.record(replace(SECOND_FLUSH, ref=ref, archived_rev=80, rev=80) for ref in refs)
        read = catalog.get_many(refs)

        def replace_all(number: int) -> set[ThreadRef]:
            mine = random.Random(number).sample(refs, len(refs))
            return catalog.replace([(replace(FIRST_FLUSH, ref=ref), read[ref]) for ref in mine])

        with ThreadPoolExecutor(6) as pool:
            done = [ref for replaced in pool.map(replace_all, range(6)) for ref in replaced]
        assert sorted(done) == sorted(refs)
        assert {found(catalog, ref).stat.archived_rev for ref in refs} == {20}

    # --- out of order, more than once, at once ---

    def test_every_order_of_a_life_ends_in_the_same_row(self, catalog: Catalog) -> None:
        expected = found(catalog, seen(catalog, [*LIFE]))
        assert expected.stat == ThreadStat(
            expected.stat.namespace,
            expected.stat.thread_id,
            "cold",
            rev=30,
            archived_rev=30,
            count=6,
            raw_bytes=600,
            stored_bytes=150,
            etag="e2",
            born=5,
            codec="openai",
            labels={"plan": "pro"},
        )
        assert (expected.version_id, expected.chain, expected.active_at, expected.archived_at) == (
            None,
            "c2",
            30.0,
            31.5,
        )
        for order in permutations(LIFE):
            assert nameless(found(catalog, seen(catalog, order))) == nameless(expected), stamps(order)

    def test_rows_may_be_repeated_at_any_time(self, catalog: Catalog) -> None:
        expected = nameless(found(catalog, seen(catalog, LIFE)))
        for row in LIFE:
            assert nameless(found(catalog, seen(catalog, [*LIFE, row, row]))) == expected, stamps([row])

    def test_one_call_may_hold_a_thread_more_than_once(self, catalog: Catalog, ref: ThreadRef) -> None:
        other = a_thread()
        catalog.record([replace(row, ref=each) for row in reversed(LIFE) for each in (ref, other)])
        expected = nameless(found(catalog, seen(catalog, LIFE)))
        assert nameless(found(catalog, ref)) == nameless(found(catalog, other)) == expected

    def test_every_order_ends_in_the_newer_life_of_an_overwritten_thread(self, catalog: Catalog) -> None:
        history = (replace(FIRST_FLUSH, forked_from="messages/source"), HOT_AGAIN, NEXT_LIFE, NEXT_FLUSH)
        expected = found(catalog, seen(catalog, history))
        assert (expected.stat.labels, expected.stat.codec, expected.stat.forked_from) == ({}, "plain", None)
        for order in permutations(history):
            assert nameless(found(catalog, seen(catalog, order))) == nameless(expected), stamps(order)

    def test_writers_at_once_neither_fail_nor_disagree(self, catalog: Catalog) -> None:
        seed = secrets.randbits(32)
        print(f"seed {seed}")  # noqa: T201 - shown where the test fails
        refs = [a_thread() for _ in range(12)]
        rows = [replace(row, ref=ref) for row in LIFE for ref in refs]

        def write(number: int) -> None:
            mine = random.Random(seed + number).sample(rows, len(rows))
            for start in range(0, len(mine), 7):
                catalog.record(mine[start : start + 7])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(write, range(8)))
        expected = nameless(found(catalog, seen(catalog, LIFE)))
        assert [nameless(found(catalog, ref)) for ref in refs] == [expected] * len(refs)

    # --- erasure ---

    def test_an_erased_thread_keeps_its_address_and_a_mark(self, catalog: Catalog, ref: ThreadRef) -> None:
        catalog.record([replace(FIRST_FLUSH, ref=ref, forked_from=NOWHERE.member)])
        catalog.erase(ref, request_id="r1", rev=25)
        entry = found(catalog, ref)
        assert entry.erased_at is not None
        nothing = undescribed(ThreadStat(ref.namespace, ref.thread_id, "absent"))
        assert entry == replace(nothing, erased_at=entry.erased_at)
        assert catalog.forks_of(NOWHERE) == []

    def test_an_erasure_is_marked_even_where_nothing_was_known(self, catalog: Catalog, ref: ThreadRef) -> None:
        catalog.erase(ref, request_id="r1", rev=25)
        first = found(catalog, ref).erased_at
        assert first is not None
        catalog.erase(ref, request_id="r1", rev=25)
        assert found(catalog, ref).erased_at == first

    def test_every_order_of_an_erased_life_stays_erased(self, catalog: Catalog) -> None:
        unborn = replace(HOT_AGAIN, born=None)
        for order in permutations((*map(recording, (HOT_SINCE_BIRTH, FIRST_FLUSH)), erasing(40), recording(unborn))):
            ref = acted(catalog, order)
            catalog.record([replace(unborn, ref=ref)])
            assert nameless(found(catalog, ref)).stat == ThreadStat("messages", "-", "absent")
            assert found(catalog, ref).erased_at is not None

    def test_every_order_ends_in_the_successor_of_an_erased_thread(self, catalog: Catalog) -> None:
        history = (
            recording(FIRST_FLUSH),
            recording(HOT_AGAIN),
            erasing(40),
            recording(NEXT_LIFE),
            recording(NEXT_FLUSH),
        )
        expected = found(catalog, acted(catalog, history))
        assert (expected.stat.tier, expected.stat.rev, expected.stat.labels, expected.erased_at) == (
            "cold",
            60,
            {},
            None,
        )
        for order in permutations(history):
            assert nameless(found(catalog, acted(catalog, order))) == nameless(expected)

    def test_a_successor_starts_with_nothing_of_the_erased_thread(self, catalog: Catalog) -> None:
        expected = nameless(found(catalog, seen(catalog, [NEXT_LIFE])))
        for order in permutations((recording(FIRST_FLUSH), erasing(40), recording(NEXT_LIFE))):
            assert nameless(found(catalog, acted(catalog, order))) == expected

    def test_an_erasure_empties_the_audit_of_the_thread_but_for_itself(self, catalog: Catalog, ref: ThreadRef) -> None:
        other = a_thread()
        catalog.record([], [CatalogEvent(each, "archived", {"key": "k"}) for each in (ref, other)])
        catalog.record([], [CatalogEvent(ref, "erased", {"versions": 3})])
        catalog.erase(ref, request_id="r1", rev=25)
        assert [event for _, event in catalog.events(ref)] == [
            CatalogEvent(ref, "erased", {"versions": 3}),
            CatalogEvent(ref, "archived", {}),
        ]
        assert [event.facts for _, event in catalog.events(other)] == [{"key": "k"}]

    def test_repeating_an_erasure_spares_the_audit_of_a_successor(self, catalog: Catalog, ref: ThreadRef) -> None:
        catalog.erase(ref, request_id="r1", rev=25)
        catalog.record([replace(NEXT_LIFE, ref=ref)], [CatalogEvent(ref, "archived", {"rev": 60})])
        catalog.erase(ref, request_id="r1", rev=25)
        assert [event.facts for _, event in catalog.events(ref)] == [{"rev": 60}]

    # --- lists ---

    def test_pages_hold_every_thread_once_in_order_whatever_its_id(self, catalog: Catalog) -> None:
        ids = [
            *"Za B'\\",
            "a-b",
            "a b",
            "a/b",
            "a%b",
            "a_b",
            "\xe4",
            "\xe9",
            "e\u0301",
            "\xdf",
            "ss",
            "\u4e2d",
            "\U0001f600",
            "\uffee",
        ]
        refs = sorted(ThreadRef(namespace, thread_id) for namespace in ("n", "N", "n-1", "\xf1") for thread_id in ids)
        shuffled = random.Random(1).sample(refs, len(refs))
        catalog.record(CatalogRow(ref, "cold", stamp=1, rev=1) for ref in shuffled)
        for size in (1, 7, len(refs), 500):
            assert list(paged(catalog, CatalogFilter(), size)) == refs
        assert list(paged(catalog, CatalogFilter(namespace="n"), 4)) == [ref for ref in refs if ref.namespace == "n"]

    def test_a_prefix_is_taken_literally(self, catalog: Catalog) -> None:
        ids = ["a%1", "a_1", "ab1", "A%1", "\\1", "/1", "\xe41"]
        catalog.record(CatalogRow(ThreadRef.of(each), "cold", stamp=1, rev=1) for each in ids)
        for prefix in ("a%", "a_", "\\", "/", "\xe4", "a"):
            expected = sorted(each for each in ids if each.startswith(prefix))
            assert [ref.thread_id for ref in paged(catalog, CatalogFilter(id_prefix=prefix), 10)] == expected

    def test_labels_must_all_be_there_with_these_values(self, catalog: Catalog) -> None:
        labels: dict[str, dict[str, str]] = {
            "1": {"plan": "pro", "who": "ann"},
            "2": {"plan": "pro"},
            "3": {"plan": 'f"r\\ee \U0001f600'},
            "4": {},
        }
        catalog.record(
            CatalogRow(ThreadRef.of(each), "hot", stamp=1, rev=1, labels=value) for each, value in labels.items()
        )
        for wanted, expected in (
            ({"plan": "pro"}, ["1", "2"]),
            ({"plan": "pro", "who": "ann"}, ["1"]),
            ({"who": "pro"}, []),
            ({"plan": 'f"r\\ee \U0001f600'}, ["3"]),
            ({}, ["1", "2", "3", "4"]),
        ):
            assert [ref.thread_id for ref in paged(catalog, CatalogFilter(labels=wanted), 10)] == expected, wanted

    def test_threads_are_listed_by_tier_idleness_and_erasure(self, catalog: Catalog) -> None:
        hot, cold, unknown, erased = (ThreadRef.of(each) for each in ("a-hot", "b-cold", "c-unknown", "d-erased"))
        catalog.record(
            [
                CatalogRow(hot, "hot", stamp=1, rev=1, active_at=200.0),
                CatalogRow(cold, "cold", stamp=1, rev=1, active_at=100.0, cached_until=500.0),
                CatalogRow(unknown, "cold", stamp=1, rev=1),
            ]
        )
        catalog.erase(erased, request_id="r", rev=1)
        assert list(paged(catalog, CatalogFilter(), 10)) == [hot, cold, unknown]
        assert list(paged(catalog, CatalogFilter(tier="hot"), 10)) == [hot]
        assert list(paged(catalog, CatalogFilter(tier="cold"), 10)) == [cold, unknown]
        assert list(paged(catalog, CatalogFilter(idle_since=200.0), 10)) == [cold, unknown]
        assert list(paged(catalog, CatalogFilter(erased=True), 10)) == [erased]

    @pytest.mark.parametrize("limit", [1, 2, 3, 100])
    def test_cached_copies_are_walked_by_when_they_may_leave(self, catalog: Catalog, limit: int) -> None:
        at = 1_800_000_000.123456
        times = [at, at + 0.000001, at + 5, at + 5, at + 5, at + 900.999999]
        refs = [ThreadRef(f"n{number % 2}", f"t{number}") for number in range(len(times))]
        rows = [
            CatalogRow(ref, "cold", stamp=1, rev=1, cached_until=until) for ref, until in zip(refs, times, strict=True)
        ]
        others = [
            CatalogRow(ThreadRef.of("hot"), "hot", stamp=1, rev=1, cached_until=at + 7),
            CatalogRow(ThreadRef.of("never"), "cold", stamp=1, rev=1),
            CatalogRow(ThreadRef.of("gone"), "cold", stamp=1, rev=1, cached_until=at - 1),
        ]
        catalog.record([*rows, *others])
        catalog.erase(ThreadRef("n1", "t3"), request_id="r", rev=1)
        walked, last = list[tuple[str, str]](), None
        while page := catalog.cached(at, after=last, limit=limit):
            assert len(page) <= limit
            walked += [(entry.stat.namespace, entry.stat.thread_id) for entry in page]
            last = page[-1]
            catalog.record([CatalogRow(a_thread(), "cold", stamp=1, rev=1, cached_until=at + 1000)])
        assert walked == [("n1", "t5"), ("n0", "t4"), ("n0", "t2"), ("n1", "t1")]

    def test_totals_add_up_by_tier_without_the_erased(self, catalog: Catalog) -> None:
        assert catalog.totals() == {"hot": TierTotals(), "cold": TierTotals()}
        catalog.record(replace(FIRST_FLUSH, ref=a_thread()) for _ in range(3))
        catalog.record([replace(HOT_SINCE_BIRTH, ref=a_thread())])
        catalog.erase(a_thread(), request_id="r", rev=1)
        assert catalog.totals() == {"hot": TierTotals(1, 1, 0, 0), "cold": TierTotals(3, 12, 1200, 300)}

    def test_forks_are_found_by_their_source(self, catalog: Catalog, ref: ThreadRef) -> None:
        forks = [ThreadRef.of("fork-2"), ThreadRef.of("fork-1"), ThreadRef("acme", "fork")]
        catalog.record(CatalogRow(fork, "hot", stamp=1, rev=1, born=1, forked_from=ref.member) for fork in forks)
        catalog.record([CatalogRow(a_thread(), "hot", stamp=1, rev=1, forked_from=NOWHERE.member)])
        assert catalog.forks_of(ref) == sorted(forks)

    # --- the audit and the epochs ---

    def test_events_come_newest_first_and_no_more_than_asked_for(self, catalog: Catalog, ref: ThreadRef) -> None:
        for number in range(5):
            catalog.record(
                [], [CatalogEvent(ref, "archived", {"rev": number}), CatalogEvent(a_thread(), "restored", {})]
            )
        lines = catalog.events(ref, limit=3)
        assert [event for _, event in lines] == [CatalogEvent(ref, "archived", {"rev": rev}) for rev in (4, 3, 2)]
        assert lines[0][0] >= lines[-1][0] > 1_600_000_000

    def test_only_events_older_than_the_retention_are_pruned(self, catalog: Catalog, ref: ThreadRef) -> None:
        catalog.record([replace(HOT_SINCE_BIRTH, ref=ref)], [CatalogEvent(ref, "archived", {})] * 3)
        assert catalog.prune_events(1) == 0
        assert len(catalog.events(ref)) == 3
        assert catalog.prune_events(0) == 3
        assert catalog.events(ref) == []
        assert catalog.get(ref) is not None

    def test_an_epoch_changes_only_when_another_was_remembered(self, catalog: Catalog) -> None:
        assert [catalog.epoch_changed(7, epoch) for epoch in ("a", "a", "b", "b", "a")] == [
            False,
            False,
            True,
            False,
            True,
        ]
        assert not catalog.epoch_changed(8, "b")

    def test_of_many_who_see_a_new_epoch_one_is_told(self, catalog: Catalog) -> None:
        catalog.epoch_changed(1023, "before")
        with ThreadPoolExecutor(8) as pool:
            told = list(pool.map(lambda _: catalog.epoch_changed(1023, "after"), range(32)))
        assert told.count(True) == 1

    def test_nothing_to_record_is_no_error(self, catalog: Catalog) -> None:
        catalog.record([])
        assert catalog.page(CatalogFilter(), 10) == []

    def test_a_closed_catalog_may_be_closed_again(self, catalog: Catalog) -> None:
        catalog.close()
        catalog.close()
