"""Any number of beats make one sweep a slot; Redis decides, whatever the broker."""

import time

from tests.celery.acts import tuned
from tests.celery.worker_log import results
from tests.waiting import until
from threadkeep.local.workers import CeleryBeat
from threadkeep.tasks.conf import MAINTENANCE


@tuned(sweep_every=2)
def test_three_beats_sweep_once_a_slot(settings, start_worker, tmp_path):
    worker = start_worker(MAINTENANCE)
    beats = [CeleryBeat(settings, data_dir=tmp_path / f"beat{number}") for number in range(3)]
    try:
        started = time.time()
        for beat in beats:
            beat.start()
        until(lambda: len(results(worker.logs(), "sweep")) >= 12)
    finally:
        for beat in beats:
            beat.stop()
    slots = int(time.time() / 2) - int(started / 2) + 1
    runs = results(worker.logs(), "sweep")
    swept = [counts for counts in runs if not counts.get("skipped")]
    assert 2 <= len(swept) <= slots
    assert len(swept) < len(runs)
