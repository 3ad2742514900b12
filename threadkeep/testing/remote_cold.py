"""What every cold store over a network must do besides; see `threadkeep.testing.cold`."""

from collections.abc import Callable
from typing import Literal

import pytest

from threadkeep.errors import StoreRefused, StoreUnavailable
from threadkeep.storage.ports import ColdStore
from threadkeep.testing.cold import ColdStoreContract
from threadkeep.testing.cold_samples import REF, make_meta

Breakage = Literal["credentials", "bucket", "endpoint"]


class RemoteColdStoreContract(ColdStoreContract):
    """What a store over a network promises on top.

    A subclass provides the fixture `broken`: a function from a `Breakage` to a store that has it.
    """

    def test_an_absent_bucket_is_refused(self, broken: Callable[[Breakage], ColdStore]) -> None:
        self.check_refusal(broken("bucket"))

    def check_refusal(self, store: ColdStore) -> None:
        """A store that is set up wrongly says what to look at, and is not tried again."""
        for attempt in (lambda: store.head(REF), lambda: store.get(REF), lambda: list(store.scan())):
            with pytest.raises(StoreRefused, match="THREADKEEP_S3_") as refusal:
                attempt()
            assert not refusal.value.retryable
        facts = store.probe()
        assert (facts.reachable, facts.bucket, facts.writable) == (True, False, None)
        assert "THREADKEEP_S3_" in facts.problem

    def test_a_store_that_does_not_answer_is_unavailable(self, broken: Callable[[Breakage], ColdStore]) -> None:
        store = broken("endpoint")
        for attempt in (
            lambda: store.head(REF),
            lambda: store.get(REF),
            lambda: store.put(REF, b"x", meta=make_meta(1), based_on=None),
            lambda: list(store.scan()),
            lambda: store.purge_history(REF, keep="0" * 32),
        ):
            with pytest.raises(StoreUnavailable) as failure:
                attempt()
            assert failure.value.retryable
        facts = store.probe()
        assert (facts.reachable, facts.bucket) == (False, None)
        assert facts.problem
