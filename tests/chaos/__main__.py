"""`python -m tests.chaos`: a run, its report and its picture; exits with 1 if a promise was broken."""

import argparse
import random
import sys
from pathlib import Path

from tests.chaos.picture import draw
from tests.chaos.report import report_of, show, write_json
from tests.chaos.run import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="how long things go wrong")
    parser.add_argument("--out", type=Path, default=Path("build/chaos"), help="where report, picture and logs go")
    parser.add_argument("--seed", type=int, help="of the schedule; random if not given")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"Seed {seed}; all servers, workers and apps are started.", flush=True)
    chaos = run(seed, arguments.minutes * 60, arguments.out.absolute(), lambda line: print(line, flush=True))
    report = report_of(chaos)
    write_json(report, arguments.out / "report.json")
    draw(report, arguments.out / "report.png")
    show(report)
    print(f"Report: {arguments.out / 'report.json'}, {arguments.out / 'report.png'}")
    return 1 if chaos.violations else 0


if __name__ == "__main__":
    sys.exit(main())
