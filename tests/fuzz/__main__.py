"""Coverage-guided fuzzing of what reads stored bytes; Linux, with `atheris` installed.

    python -m tests.fuzz archive --seconds 20

Begins from tests/fuzz/corpus/. An input that breaks what must hold is written to the current folder, and the exit
code is not 0; `python -m tests.fuzz archive --try FILE` runs it again, without atheris.
"""

import argparse
import sys
import tempfile
from importlib import import_module
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
SIZE = 16 * 1024
"""Bytes of an input, at most."""


def main() -> None:
    """Fuzz, or try one input again."""
    told = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    told.add_argument("target", choices=["archive", "snapshot_v1"])
    told.add_argument("--seconds", type=int, default=20)
    told.add_argument("--seed", type=int, default=0, help="0 for one of its own")
    told.add_argument("--try", dest="input", type=Path, metavar="FILE")
    options = told.parse_args()
    if options.input is not None:
        target = import_module(f"tests.fuzz.{options.target}")
        print("taken" if target.check(options.input.read_bytes()) else "refused")
        return
    fuzz(options.target, options.seconds, options.seed)


def fuzz(name: str, seconds: int, seed: int) -> None:
    """Run one target under libFuzzer, which ends the process and prints what it did on stderr."""
    import atheris

    with atheris.instrument_imports(include=["threadkeep.model", "threadkeep.storage", "threadkeep.errors"]):
        target = import_module(f"tests.fuzz.{name}")
    arguments = [
        f"-max_total_time={seconds}",
        f"-max_len={SIZE}",
        f"-seed={seed}",
        "-timeout=20",
        "-rss_limit_mb=2000",
        "-print_final_stats=1",
        "-len_control=0",
        tempfile.mkdtemp(prefix="threadkeep-fuzz-"),
        str(CORPUS / name),
    ]

    def mutate(body: bytes, size: int, dice: int) -> bytes:
        changed: bytes = target.mutated(body, size, dice, atheris.Mutate)
        return changed

    taken = 0

    def check(body: bytes) -> None:
        nonlocal taken
        if target.check(body):
            taken += 1
            if taken % 50 == 0:  # said now and then, for libFuzzer ends the process without leaving time to
                print(f"inputs that were taken: {taken}", file=sys.stderr, flush=True)

    atheris.Setup([sys.argv[0], *arguments], check, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
