"""Stopping a scenario at each of its steps, before it and behind it, and comparing how it all ends."""

import secrets
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, Final

import pytest

from tests.crash.plant import Plant
from tests.crash.scenarios import Case, Scenario
from threadkeep.errors import ThreadkeepError
from threadkeep.model import ThreadRef
from threadkeep.storage import hot_flow
from threadkeep.testing.faults import DEATHS, Kind, Moment

SOON: Final = {"marker_seconds": 0.001, "ask_again": 0.06, "poison_after": 50, "s3_attempts": 1}
"""Settings of a plant: markers go stale at once, so that what was lost is asked for again without waiting; no client
tries twice."""

CaseOf = Callable[[Scenario], Case]


@pytest.fixture
def case_of(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> CaseOf:
    """Makes a case of its own; sweeps look at its shards alone, since walking the other thousand shows nothing."""

    def make(scenario: Scenario) -> Case:
        mark = secrets.token_hex(6)
        case = Case(plant, ThreadRef.of(f"t-{mark}"), ThreadRef.of(f"other-{mark}"))
        monkeypatch.setattr(hot_flow, "all_shards", lambda: sorted({case.ref.shard, case.other.shard}))
        plant.clear_catalog()
        plant.working(lambda: scenario.prepare(case))
        return case

    return make


def finished(case: Case) -> Any:
    """What is left at the end, of the thread and of the one beside it."""
    if "open" in case.about:
        case.about["keep"].close()
    case.plant.settle(case.ref, case.other)
    return case.plant.seen(case.ref), case.plant.seen(case.other)


def rev_of(case: Case) -> int:
    there = case.plant.stores.cold.head(case.ref)
    return there.meta.rev if there is not None and there.meta is not None else 0


def interrupted(scenario: Scenario, case: Case, *, stop_at: int, moment: Moment) -> Any:
    """Stop it there, see that nothing is lost by what repairs it, do it again, and say how all ends."""
    plant, before = case.plant, rev_of(case)
    with suppress(ThreadkeepError):  # as a worker or an app that lives would be told
        work = plant.working(lambda: scenario.act(case), stop_at=stop_at, moment=moment)
        assert work.stopped, "it ended before that step"
    held, reached = plant.holds(case.ref), rev_of(case)
    assert reached >= before, "the archive went back"
    if scenario.kind == "session":
        plant.settle(case.ref, case.other)
        assert held == plant.ERASING or plant.holds(case.ref) == held, "what was there when the app died is gone"
    plant.working(lambda: scenario.act(case))
    if scenario.kind == "task" and held != plant.ERASING and "erasure" not in scenario.name:
        assert plant.holds(case.ref) == held, "the repeated task changed what is there"
    end = finished(case)
    assert rev_of(case) >= reached, "the archive went back"
    return end


def stop_everywhere(
    scenario: Scenario,
    moments: tuple[Moment, ...],
    case_of: CaseOf,
    record_property: Callable[[str, Any], None],
    *,
    where: str,
    kinds: Collection[Kind] = ("redis", "s3", "sql", "broker"),
) -> None:
    """Stop a scenario at each of its steps of these kinds; it must end as it does undisturbed."""
    started, case = time.monotonic(), case_of(scenario)
    steps = case.plant.working(lambda: scenario.act(case)).steps
    undisturbed = finished(case)
    assert scenario.kinds <= {step.kind for step in steps}
    assert len(steps) >= scenario.steps, [str(step) for step in steps]
    cases = 0
    chosen = [step for step in steps if step.kind in kinds]
    assert chosen
    for step in chosen:
        for moment in moments:
            case = case_of(scenario)
            end = interrupted(scenario, case, stop_at=step.number, moment=moment)
            assert end == undisturbed, f"stopped {moment} {step}"
            cases += 1
    assert cases == 2 * len(chosen)
    seconds = time.monotonic() - started
    how = "killed there" if moments == DEATHS else "told of a failure there"
    record_property("proof", {"of": f"{where}, {how}", "steps": len(chosen), "cases": cases, "seconds": seconds})
