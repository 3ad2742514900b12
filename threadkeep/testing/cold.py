"""What every cold store must do. A store's tests subclass `ColdStoreContract` and provide its fixtures.

Names of test classes are the subclass's business: this one is not collected by itself.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, Protocol

import pytest

from threadkeep.errors import ArchiveMoved
from threadkeep.model import (
    MAX_ENCODED_ID,
    MAX_ENCODED_NAMESPACE,
    ArchiveMeta,
    StoredObject,
    ThreadRef,
)
from threadkeep.storage.cold_keys import SUFFIX, ColdKeys
from threadkeep.storage.ports import Announce, ColdStore
from threadkeep.testing.cold_samples import REF, UNUSUAL, body_of, make_meta, put_over

LARGE = 5 * 1024 * 1024
"""S3 copies no smaller part."""


def body_of_size(size: int) -> bytes:
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


class RawObjects(Protocol):
    """The bucket behind a store, as a stranger sees it."""

    def write(self, key: str, body: bytes) -> bool:
        """Put an object without any metadata; False if the server cannot keep such a key."""
        ...

    def keys(self, prefix: str) -> list[str]:
        """Keys that a plain listing shows."""
        ...

    def count_versions(self, prefix: str) -> int:
        """Versions and delete markers; objects, where there are no versions."""
        ...


class ColdStoreContract:
    """One test per promise of the `ColdStore` port.

    A subclass provides the fixtures `store` (empty, under `prefix`), `prefix`, `raw` (the same bucket), `versioned`
    (whether it keeps versions) and `extending` (whether large objects can be extended in it).

    Attributes:
        scanned: How many threads the test of scanning makes; more than a page of a listing holds.
    """

    scanned: ClassVar[int] = 1_050

    # --- one object ----------------------------------------------------------------------------------------

    def test_at_first_nothing_is_stored(self, store: ColdStore) -> None:
        assert store.head(REF) is None
        assert store.get(REF) is None
        assert store.get_v1(REF) is None
        assert store.set_aside(REF, etag="0" * 32) is None
        assert store.conflicts(REF) == []
        assert list(store.scan()) == []
        assert store.purge_conflicts(REF) == 0
        assert store.purge_history(REF, keep="0" * 32) == 0

    def test_head_and_get_tell_what_was_put(self, store: ColdStore, versioned: bool) -> None:
        meta = make_meta(1_795_000_000_000_000)
        put = store.put(REF, b"\x00\xff body", meta=meta, based_on=None)
        head, got = store.head(REF), store.get(REF)
        assert got == (head, b"\x00\xff body")
        assert head is not None
        assert (head.key, head.etag, head.size, head.meta) == (put.key, put.etag, 7, meta)
        assert head.version_id == put.version_id
        assert (head.version_id is not None) == versioned
        assert abs(head.modified - put.modified) < 5
        assert '"' not in put.etag

    def test_a_put_replaces_the_object_it_is_based_on(self, store: ColdStore) -> None:
        first = put_over(store, REF, 1)
        meta = make_meta(2)
        second = store.put(REF, b"second", meta=meta, based_on=first.etag)
        assert second.etag != first.etag
        got = store.get(REF)
        assert got is not None
        assert (got[0].etag, got[0].meta, got[1]) == (second.etag, meta, b"second")

    def test_threads_do_not_touch_each_other(self, store: ColdStore) -> None:
        neighbours = [
            REF,
            ThreadRef("messages", "ticket-4"),
            ThreadRef("messages", "ticket-42/1"),
            ThreadRef("m", "ticket-42"),
        ]
        for rev, ref in enumerate(neighbours, start=1):
            put_over(store, ref, rev)
        assert [_rev(store.head(ref)) for ref in neighbours] == [1, 2, 3, 4]

    def test_a_tombstone_is_stored_and_found_like_a_thread(self, store: ColdStore) -> None:
        put_over(store, REF, 1)
        put_over(store, REF, 2, tombstone=True)
        head = store.head(REF)
        assert head is not None
        assert head.meta is not None
        assert head.meta.tombstone
        assert [ref for ref, _ in store.scan()] == [REF]

    @pytest.mark.parametrize("ref", UNUSUAL, ids=lambda ref: ascii(ref.member)[:40])
    def test_any_id_has_an_object_of_its_own(self, store: ColdStore, ref: ThreadRef) -> None:
        self.keeps(store, ref)

    def test_the_longest_id_has_an_object_of_its_own(self, store: ColdStore) -> None:
        self.keeps(store, ThreadRef("n" * MAX_ENCODED_NAMESPACE, "é" * (MAX_ENCODED_ID // 6)))

    def keeps(self, store: ColdStore, ref: ThreadRef) -> None:
        """Go once through what can be done with a thread."""
        put_over(store, ref, 1)
        stored = put_over(store, ref, 2)
        assert _rev(store.head(ref)) == 2
        assert [found for found, _ in store.scan()] == [ref]
        assert [found for found, _ in store.scan(ref.namespace)] == [ref]
        assert store.set_aside(ref, etag=stored.etag) is not None
        assert [_rev(copy) for copy in store.conflicts(ref)] == [2]

    @pytest.mark.parametrize("size", [0, 1, 20 * 1024 * 1024], ids=["empty", "one_byte", "20_mib"])
    def test_a_body_of_any_size_comes_back(self, store: ColdStore, size: int) -> None:
        body = body_of_size(size)
        store.put(REF, body, meta=make_meta(1), based_on=None)
        got = store.get(REF)
        assert got is not None
        assert got[0].size == size
        assert got[1] == body

    # --- what is behind the bytes of a large one -----------------------------------------------------------

    def test_a_large_object_is_extended_behind_its_first_bytes(self, store: ColdStore, extending: bool) -> None:
        assert store.extends(LARGE) == extending
        if not extending:
            return
        first = store.put(REF, body_of_size(LARGE + 10), meta=make_meta(1), based_on=None)
        meta = make_meta(2)
        second = store.extend(REF, b"what is new", meta=meta, based_on=first.etag, keep=LARGE)
        got = store.get(REF)
        assert got is not None
        assert got[1] == body_of_size(LARGE + 10)[:LARGE] + b"what is new"
        assert (got[0].etag, got[0].size, got[0].meta) == (second.etag, LARGE + len(b"what is new"), meta)
        assert (got[0].key, got[0].version_id) == (first.key, second.version_id)
        third = store.extend(REF, b", and newer", meta=make_meta(3), based_on=second.etag, keep=second.size)
        assert third.size == LARGE + 22
        assert _etag(store.put(REF, b"small", meta=make_meta(4), based_on=third.etag)) == _etag(store.head(REF))

    def test_an_extension_yields_to_another_object(self, store: ColdStore, extending: bool) -> None:
        if not extending:
            assert not store.extends(LARGE)
            return
        for ref, there in ((REF, True), (ThreadRef.of("nothing"), False)):
            etag = "0" * 32
            if there:
                etag = store.put(ref, body_of_size(LARGE), meta=make_meta(1), based_on=None).etag
                store.put(ref, body_of_size(LARGE + 1), meta=make_meta(2), based_on=etag)
            before = store.head(ref)
            with pytest.raises(ArchiveMoved):
                store.extend(ref, b"late", meta=make_meta(3), based_on=etag, keep=LARGE)
            assert store.head(ref) == before

    # --- who wins ------------------------------------------------------------------------------------------

    def test_a_create_yields_to_what_is_there(self, store: ColdStore) -> None:
        first = put_over(store, REF, 1)
        with pytest.raises(ArchiveMoved):
            store.put(REF, b"late", meta=make_meta(2), based_on=None)
        assert _etag(store.head(REF)) == first.etag

    def test_a_replacement_yields_to_another_object(self, store: ColdStore) -> None:
        first = put_over(store, REF, 1)
        second = put_over(store, REF, 2)
        with pytest.raises(ArchiveMoved):
            store.put(REF, b"late", meta=make_meta(3), based_on=first.etag)
        assert _etag(store.head(REF)) == second.etag

    def test_a_replacement_of_nothing_creates_nothing(self, store: ColdStore) -> None:
        with pytest.raises(ArchiveMoved):
            store.put(REF, b"late", meta=make_meta(3), based_on="0" * 32)
        assert store.head(REF) is None

    def test_a_repeat_after_success_finds_its_own_attempt(self, store: ColdStore) -> None:
        meta = make_meta(1)
        store.put(REF, b"mine", meta=meta, based_on=None)
        with pytest.raises(ArchiveMoved):
            store.put(REF, b"mine", meta=meta, based_on=None)
        assert _meta(store.head(REF)) == meta

    def test_of_sixteen_writers_at_once_one_wins(self, store: ColdStore) -> None:
        for based_on in (None, _etag(put_over(store, ThreadRef.of("other"), 1))):
            ref = ThreadRef.of("other") if based_on else REF
            metas = [make_meta(rev) for rev in range(2, 18)]
            winners = self.race(store, ref, metas, based_on=based_on)
            assert len(winners) == 1
            assert store.get(ref) == (store.head(ref), body_of(winners[0]))
            assert _meta(store.head(ref)) == winners[0]

    def race(
        self, store: ColdStore, ref: ThreadRef, metas: list[ArchiveMeta], *, based_on: str | None
    ) -> list[ArchiveMeta]:
        """Put all at once; those that were told that they won."""

        def won(meta: ArchiveMeta) -> bool:
            try:
                store.put(ref, body_of(meta), meta=meta, based_on=based_on)
            except ArchiveMoved:
                return False
            return True

        with ThreadPoolExecutor(len(metas)) as pool:
            return [meta for meta, winner in zip(metas, pool.map(won, metas), strict=True) if winner]

    # --- conflicts -----------------------------------------------------------------------------------------

    def test_a_copy_set_aside_keeps_bytes_and_metadata(self, store: ColdStore, raw: RawObjects, prefix: str) -> None:
        stored = put_over(store, REF, 7)
        key = store.set_aside(REF, etag=stored.etag)
        assert key is not None
        assert store.set_aside(REF, etag=stored.etag) == key
        assert raw.keys(f"{prefix}/conflicts/") == [key]
        (copy,) = store.conflicts(REF)
        assert (copy.key, copy.size, copy.meta) == (key, stored.size, stored.meta)
        assert _etag(store.head(REF)) == stored.etag

    def test_nothing_is_set_aside_once_the_object_changed(self, store: ColdStore) -> None:
        first = put_over(store, REF, 1)
        put_over(store, REF, 2)
        assert store.set_aside(REF, etag=first.etag) is None
        assert store.conflicts(REF) == []

    def test_conflicts_come_oldest_first_and_go_together(self, store: ColdStore, raw: RawObjects, prefix: str) -> None:
        for rev in (10, 9, 1_795_000_000_000_000):
            meta = make_meta(rev)
            key = store.put_aside(REF, body_of(meta), meta=meta)
            assert store.put_aside(REF, body_of(meta), meta=meta) == key
        assert [_rev(copy) for copy in store.conflicts(REF)] == [9, 10, 1_795_000_000_000_000]
        assert store.purge_conflicts(REF) >= 3
        assert store.conflicts(REF) == []
        assert raw.count_versions(f"{prefix}/conflicts/") == 0

    def test_conflicts_of_other_threads_stay(self, store: ColdStore) -> None:
        others = [
            ThreadRef("messages", "ticket-42/1"),
            ThreadRef("messages", "ticket-421"),
            ThreadRef("m", "ticket-42"),
        ]
        for ref in (REF, *others):
            store.put_aside(ref, b"aside", meta=make_meta(1))
        assert len(store.conflicts(REF)) == 1
        store.purge_conflicts(REF)
        assert [len(store.conflicts(ref)) for ref in (REF, *others)] == [0, 1, 1, 1]

    def test_a_namespace_called_conflicts_is_one_like_any(self, store: ColdStore) -> None:
        ref = ThreadRef("conflicts", "messages")
        put_over(store, ref, 1)
        put_over(store, ThreadRef("messages", "x"), 2)
        store.put_aside(ThreadRef("messages", "x"), b"aside", meta=make_meta(1))
        assert [found for found, _ in store.scan("conflicts")] == [ref]
        assert store.conflicts(ref) == []
        assert store.purge_conflicts(ref) == 0
        assert store.purge_history(ref, keep=_etag(store.head(ref))) == 0
        assert _rev(store.head(ref)) == 1
        assert len(store.conflicts(ThreadRef("messages", "x"))) == 1

    # --- what others wrote ---------------------------------------------------------------------------------

    def test_an_object_of_a_stranger_has_no_metadata_and_can_be_set_aside(
        self, store: ColdStore, raw: RawObjects, prefix: str
    ) -> None:
        raw.write(self.key_for_strangers(ColdKeys(prefix)), b"who wrote this?")
        head, got = store.head(REF), store.get(REF)
        assert head is not None
        assert head.meta is None
        assert got == (head, b"who wrote this?")
        assert store.set_aside(REF, etag=head.etag) is not None
        store.put(REF, b"ours", meta=make_meta(9), based_on=head.etag)
        assert [(copy.meta, copy.size) for copy in store.conflicts(REF)] == [(None, 15)]
        assert _rev(store.head(REF)) == 9

    def key_for_strangers(self, keys: ColdKeys) -> str:
        """A key at which the store looks for `REF`."""
        return keys.thread(REF)

    def test_a_zeitlich_snapshot_is_found_gzipped_or_plain(
        self, store: ColdStore, raw: RawObjects, prefix: str
    ) -> None:
        raw.write(f"{prefix}/messages/ticket-42.json", b"plain")
        assert store.get_v1(REF) == (f"{prefix}/messages/ticket-42.json", b"plain")
        raw.write(f"{prefix}/messages/ticket-42.json.gz", b"gzipped")
        assert store.get_v1(REF) == (f"{prefix}/messages/ticket-42.json.gz", b"gzipped")
        assert store.head(REF) is None
        assert list(store.scan()) == []

    @pytest.mark.parametrize(
        ("thread_id", "name"),
        [
            ("team/a/thread 1", "team/a/thread 1"),
            ("/lead/trail/", "lead/trail/"),
            ("a?b#c%20d+e&f=g;h,i@j:k$l!m'(n)*", "a?b#c%20d+e&f=g;h,i@j:k$l!m'(n)*"),
            ("нить-😀-é", "нить-😀-é"),
        ],
    )
    def test_a_zeitlich_key_is_raw_text(
        self, store: ColdStore, raw: RawObjects, prefix: str, thread_id: str, name: str
    ) -> None:
        key = f"{prefix}/messages/{name}.json.gz"
        kept = raw.write(key, b"v1")
        assert store.get_v1(ThreadRef.of(thread_id)) == ((key, b"v1") if kept else None)
        assert store.purge_v1(ThreadRef.of(thread_id)) == (1 if kept else 0)
        assert store.get_v1(ThreadRef.of(thread_id)) is None

    def test_a_zeitlich_key_that_some_would_resolve_is_never_asked_for(
        self, store: ColdStore, raw: RawObjects, prefix: str
    ) -> None:
        """A store or a proxy may take `..` for the folder above: another tenant's."""
        key = f"{prefix}/messages/../up.json.gz"
        kept = raw.write(key, b"v1")
        assert store.get_v1(ThreadRef.of("../up")) is None
        assert store.purge_v1(ThreadRef.of("../up")) == 0
        assert (key in raw.keys(f"{prefix}/")) == kept

    # --- history -------------------------------------------------------------------------------------------

    def test_history_goes_and_what_is_kept_stays(
        self, store: ColdStore, raw: RawObjects, prefix: str, versioned: bool
    ) -> None:
        for rev in (1, 2, 3):
            put_over(store, REF, rev)
        kept = put_over(store, REF, 4, tombstone=True)
        other = put_over(store, ThreadRef.of("ticket-421"), 1)
        assert store.purge_history(REF, keep=kept.etag) == self.old_versions(3, versioned=versioned)
        assert store.purge_history(REF, keep=kept.etag) == 0
        assert raw.count_versions(f"{prefix}/") == 2
        assert sorted(raw.keys(f"{prefix}/")) == sorted([kept.key, other.key])
        assert _etag(store.head(REF)) == kept.etag

    def old_versions(self, replaced: int, *, versioned: bool) -> int:
        """How many old versions there are after so many replacements."""
        return replaced if versioned else 0

    def test_what_zeitlich_wrote_goes_and_nothing_beside_it(
        self, store: ColdStore, raw: RawObjects, prefix: str
    ) -> None:
        names = ("ticket-42.json", "ticket-42.json.gz", "ticket-42.json.gz.mine", "ticket-421.json")
        for name in names:
            raw.write(f"{prefix}/messages/{name}", b"v1")
        kept = put_over(store, REF, 1)
        assert store.purge_history(REF, keep=kept.etag) == 0
        assert store.purge_v1(REF) == 2
        assert store.purge_v1(REF) == 0
        others = [f"{prefix}/messages/{name}" for name in names[2:]]
        assert sorted(raw.keys(f"{prefix}/")) == sorted([kept.key, *others])

    def test_a_purge_is_announced_before_it_begins_and_may_be_refused(
        self, store: ColdStore, raw: RawObjects, prefix: str, versioned: bool
    ) -> None:
        def refuse(number: int) -> None:
            announced.append(number)
            raise PermissionError

        put_over(store, REF, 1)
        kept = put_over(store, REF, 2, tombstone=True)
        store.put_aside(REF, b"aside", meta=make_meta(1))
        raw.write(f"{prefix}/messages/ticket-42.json", b"v1")
        purges: list[Callable[[Announce], int]] = [
            lambda announce: store.purge_conflicts(REF, announce=announce),
            lambda announce: store.purge_v1(REF, announce=announce),
        ]
        if self.old_versions(1, versioned=versioned):
            purges.append(lambda announce: store.purge_history(REF, keep=kept.etag, announce=announce))
        for purge in purges:
            announced: list[int] = []
            before = raw.count_versions(f"{prefix}/")
            with pytest.raises(PermissionError):
                purge(refuse)
            assert raw.count_versions(f"{prefix}/") == before
            assert purge(announced.append) == announced[0] == announced[-1]
        assert raw.keys(f"{prefix}/") == [kept.key]

    def test_what_came_late_goes_and_what_is_newer_stays(self, store: ColdStore) -> None:
        for rev in (5, 12):
            store.put_aside(REF, b"aside", meta=make_meta(rev))
        put_over(store, REF, 10, tombstone=True)
        successor = put_over(store, REF, 11)
        store.purge_late(REF, before=10)
        assert [_rev(copy) for copy in store.conflicts(REF)] == [12]
        assert _etag(store.head(REF)) == successor.etag
        store.purge_late(REF, before=50)
        assert store.conflicts(REF) == []
        assert _etag(store.head(REF)) == successor.etag

    def test_purging_history_never_touches_a_successor(self, store: ColdStore) -> None:
        tombstone = put_over(store, REF, 1, tombstone=True)
        successor = put_over(store, REF, 2)
        store.purge_history(REF, keep=tombstone.etag)
        assert _etag(store.head(REF)) == successor.etag

    def test_what_was_stored_before_is_found_newest_first(self, store: ColdStore, versioned: bool) -> None:
        assert list(store.earlier(REF)) == []
        metas = [make_meta(1), make_meta(2, tombstone=True), make_meta(3), make_meta(4)]
        for meta in metas:
            there = store.head(REF)
            store.put(REF, body_of(meta), meta=meta, based_on=there.etag if there else None)
        put_over(store, ThreadRef.of("ticket-421"), 9)
        expected = [(meta, body_of(meta)) for meta in metas[2::-1]] if self.remembers(versioned=versioned) else []
        assert [(stored.meta, body) for stored, body in store.earlier(REF)] == expected

    def remembers(self, *, versioned: bool) -> bool:
        """Whether the store keeps what was replaced."""
        return versioned

    def test_a_sound_archive_is_put_back_over_a_damaged_one_of_a_higher_revision(self, store: ColdStore) -> None:
        damaged = put_over(store, REF, 9)
        meta = make_meta(4)
        put = store.put_back(REF, b"sound", meta=meta, over=damaged)
        got = store.get(REF)
        assert got is not None
        assert (got[0].etag, got[0].meta, got[1]) == (put.etag, meta, b"sound")
        assert [ref for ref, _ in store.scan()] == [REF]
        assert _rev(put_over(store, REF, 10)) == _rev(store.head(REF)) == 10

    def test_nothing_is_put_back_over_what_was_changed_meanwhile(self, store: ColdStore) -> None:
        damaged = put_over(store, REF, 8)
        for seen in (damaged, None):
            if seen is damaged:
                put_over(store, REF, 9)
            with pytest.raises(ArchiveMoved):
                store.put_back(REF, b"sound", meta=make_meta(4), over=seen)
        assert _rev(store.head(REF)) == 9

    def test_a_sound_archive_is_put_back_where_nothing_is(self, store: ColdStore) -> None:
        store.put_back(REF, b"sound", meta=make_meta(4), over=None)
        assert _rev(store.head(REF)) == 4

    # --- all threads ---------------------------------------------------------------------------------------

    def test_a_scan_yields_every_thread_once_in_key_order(self, store: ColdStore) -> None:
        """Beyond one page of a listing. Between namespaces the order is the store's."""
        few = [ThreadRef(name, "t") for name in ("a", "a-b", "a b", "é")]
        marks = ("", "-", ".", "é", "A ")
        many = [ThreadRef("many", f"{mark}{number}") for number in range(self.scanned // 5) for mark in marks]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda ref: store.put(ref, b"x", meta=make_meta(1), based_on=None), [*few, *many]))
        assert [ref for ref, _ in store.scan("many")] == sorted(many, key=lambda ref: ref.member + SUFFIX)
        assert sorted(ref for ref, _ in store.scan()) == sorted([*few, *many])
        assert [ref for ref, _ in store.scan("a")] == [few[0]]
        assert list(store.scan("absent")) == []

    def test_a_scan_tells_what_a_listing_tells(self, store: ColdStore, raw: RawObjects, prefix: str) -> None:
        stored = put_over(store, REF, 1)
        store.put_aside(REF, b"aside", meta=make_meta(1))
        for name in (
            "x",
            f"x{SUFFIX}",
            f"a/b/c{SUFFIX}",
            f"a/%zz{SUFFIX}",
            f"a/%2f{SUFFIX}",
            f"a/%FF{SUFFIX}",
            "a/b.txt",
        ):
            raw.write(f"{prefix}/{name}", b"not a thread")
        ((ref, found),) = store.scan()
        assert (ref, found.key, found.etag, found.size, found.meta) == (
            REF,
            stored.key,
            stored.etag,
            stored.size,
            None,
        )
        assert abs(found.modified - stored.modified) < 5

    def test_a_scan_goes_on_behind_any_thread_there_or_not(self, store: ColdStore) -> None:
        self.goes_on(store, ("1", "1-", "1.", "1/", "é"))

    def goes_on(self, store: ColdStore, ids: tuple[str, ...]) -> None:
        """Scan from behind each of some threads."""
        refs = [ThreadRef(name, each) for name in ("a", "b", "é") for each in ids]
        for ref in refs:
            store.put(ref, b"x", meta=make_meta(2), based_on=None)
            store.put_aside(ref, b"aside", meta=make_meta(1))
        everything = [ref for ref, _ in store.scan()]
        for at, ref in enumerate(everything):
            assert [found for found, _ in store.scan(after=ref)] == everything[at + 1 :], ref
        inner = [ref for ref, _ in store.scan("b")]
        for at, ref in enumerate(inner):
            assert [found for found, _ in store.scan("b", after=ref)] == inner[at + 1 :], ref
        gone = ThreadRef("b", "0")
        assert [found for found, _ in store.scan("b", after=gone)] == [ref for ref in inner if ref.member > gone.member]

    def test_threads_that_have_something_aside_are_named_once(self, store: ColdStore) -> None:
        refs = [REF, ThreadRef("messages", "ticket-4"), ThreadRef("tenant/a", "b/c"), ThreadRef("conflicts", "x")]
        for ref in refs:
            for rev in (1, 2):
                store.put_aside(ref, b"aside", meta=make_meta(rev))
        put_over(store, ThreadRef("conflicts", "y"), 1)
        put_over(store, ThreadRef("messages", "z"), 1)
        assert sorted(store.threads_aside()) == sorted(refs)

    # --- the store itself ----------------------------------------------------------------------------------

    def test_a_probe_finds_out_what_the_bucket_can_do_and_leaves_nothing(
        self, store: ColdStore, raw: RawObjects, prefix: str, versioned: bool
    ) -> None:
        facts = store.probe()
        assert facts.problem == ""
        assert (facts.reachable, facts.bucket, facts.writable) == (True, True, True)
        assert (facts.conditional_create, facts.conditional_replace) == (True, True)
        assert facts.versioned is versioned
        assert raw.count_versions(f"{prefix}/") == 0

    def test_a_closed_store_opens_again(self, store: ColdStore) -> None:
        put_over(store, REF, 1)
        store.close()
        store.close()
        assert _rev(store.head(REF)) == 1


def _meta(stored: StoredObject | None) -> ArchiveMeta | None:
    return None if stored is None else stored.meta


def _rev(stored: StoredObject | None) -> int | None:
    meta = _meta(stored)
    return None if meta is None else meta.rev


def _etag(stored: StoredObject | None) -> str:
    assert stored is not None
    return stored.etag
