"""`python -m tests.benchmarks`: every benchmark, one after the other in this process, below one heading.

Where only torch, transformers, safetensors and numpy are installed, those of the model alone run, and the others are
said to be left out. One whose results are not equal to its peer's ends in an error, and the next ones run all the same.
"""

import gc
import importlib
import importlib.util
import sys
import time

from tests.benchmarks.machine import circumstances
from tests.benchmarks.results import Report
from tests.benchmarks.running import compile_sources, options, tell

OF_THE_MODEL = ("generation", "training", "tokenizing")
"""Benchmarks that also run in a bare checkout, and on an accelerator."""
OF_THE_PIPELINE = ("clips", "training_set", "embedding", "ingest", "rerun", "planning", "starting")
NEEDED = ("pyarrow", "prefect", "soundfile")
"""Some of the packages that these need in addition: if one is missing, none of them runs."""


def main() -> None:
    """Run the benchmarks and print all figures as Markdown; if a folder is given, they replace this machine's last
    figures there."""
    parser = options(__doc__)
    every = (*OF_THE_MODEL, *OF_THE_PIPELINE)
    parser.add_argument("--only", nargs="+", choices=every, default=every, help="the benchmarks to run")
    args = parser.parse_args()
    passed_on = ["--device", args.device, "--threads", str(args.threads)]
    passed_on += [option for option in ("--cpu-time", "--small") if getattr(args, option[2:].replace("-", "_"))]
    if not args.small:
        compile_sources()
    bare = any(importlib.util.find_spec(name) is None for name in NEEDED)
    begun, heading = time.perf_counter(), circumstances()
    reports: list[Report] = []
    failed: list[str] = []
    for name in args.only:
        if name in OF_THE_PIPELINE and bare:
            print(f"{name} is left out, which needs {', '.join(NEEDED[:-1])} and {NEEDED[-1]}", file=sys.stderr)
            continue
        print(f"--- {name}", file=sys.stderr)
        try:
            benchmark = importlib.import_module(f"tests.benchmarks.{name}")
            reports.append(benchmark.measure(benchmark.arguments().parse_args(passed_on)))
        except (Exception, SystemExit) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            failed.append(f"{name} failed: {type(error).__name__}: {reason}")
            print(failed[-1], file=sys.stderr)
        gc.collect()
    took = f"The whole took {(time.perf_counter() - begun) / 60:.1f} minutes"
    tell(reports, args, ". ".join([heading, took, *failed]))
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
