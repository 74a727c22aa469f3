"""Runs one harness with atheris: `python -m tests.fuzz NAME --seconds 60`. Needs `pip install '.[fuzz]'`.

What it finds is written to a file whose path it prints; `python -m tests.fuzz NAME FILE` runs that again. An input that
was worth a repair goes into the corpus.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

from tests.fuzz.harnesses import MOST_BYTES, NAMES, corpus, harness


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.file is not None:
        harness(arguments.name)(arguments.file.read_bytes())
        return
    _fuzz(arguments.name, arguments.seconds, arguments.runs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz one part of qproxy.")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("file", nargs="?", type=Path, help="run this one input and nothing else")
    parser.add_argument("--seconds", type=int, default=60, help="how long (60)")
    parser.add_argument("--runs", type=int, default=-1, help="how many inputs at most (no limit)")
    return parser


def _fuzz(name: str, seconds: int, runs: int) -> None:
    try:
        atheris = importlib.import_module("atheris")
    except ModuleNotFoundError:
        sys.exit("atheris is not installed: pip install '.[fuzz]'")
    with atheris.instrument_imports(include=["qproxy", "h11"]):
        one_input = harness(name)
    found = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    flags = [f"-max_total_time={seconds}", f"-runs={runs}", f"-max_len={MOST_BYTES}", f"-artifact_prefix={found}/"]
    # libFuzzer keeps new inputs in the first folder.
    atheris.Setup([sys.argv[0], *flags, str(found), str(corpus(name))], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
