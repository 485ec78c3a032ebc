"""The common interface of benchmarks: the same options, and the same form of results.

A benchmark is a module with `arguments()`, the parser of its options, and `measure(args)`, which does what they say.
"""

import argparse
import compileall
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.keeping import FOLDER, keep
from tests.benchmarks.machine import circumstances, describe
from tests.benchmarks.results import Report, headed

ROOT = Path(__file__).resolve().parents[2]


def options(purpose: str | None) -> argparse.ArgumentParser:
    """A parser of the options that all benchmarks share; each adds its own, whose defaults are those of the published
    figures."""
    parser = argparse.ArgumentParser(description=purpose, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for what computes with tensors")
    parser.add_argument("--threads", type=int, default=2, help="of torch, and processes where files are read")
    parser.add_argument("--cpu-time", action="store_true", help="by the processors' time: where others use the machine")
    parser.add_argument("--small", action="store_true", help="small sizes, to try the benchmark itself")
    parser.add_argument("--results", type=Path, help=f"a folder to keep the figures in; {FOLDER.name} here")
    return parser


def compile_sources() -> None:
    """Compile the modules of this project that benchmark processes import, as installing it does, and let them keep
    what they compile of others: both sides then start as they do for their users from the second time on."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for folder in ("schemas", "model", "stages", "flows", "tests/benchmarks"):
        compileall.compile_dir(ROOT / folder, quiet=2)
    compileall.compile_file(ROOT / "segue.py", quiet=2)


def alone(parser: argparse.ArgumentParser, measure: Callable[[argparse.Namespace], Report]) -> None:
    """Run one benchmark with the options of the command line, and print its report below the machine's name."""
    args = parser.parse_args()
    if not args.small:
        compile_sources()
    tell([measure(args)], args, circumstances())


def tell(reports: Sequence[Report], args: argparse.Namespace, told: str) -> None:
    """Print reports below the machine's name, and store them if a folder is given, except those of small sizes, which
    only try the benchmarks.

    Args:
            told: the circumstances, and other remarks on the run.
    """
    machine = describe(args.device, args.threads)
    print(headed(reports, machine, told))
    if args.results is not None and not args.small:
        keep(args.results, machine, told, reports)


def in_a_process(name: str, *words: str) -> dict[str, Any]:
    """Return what a benchmark prints last, as JSON, when it is called with these words in a process of its own, so that
    memory and imports are its own. SystemExit with the end of its error output if it fails."""
    command = [sys.executable, "-W", "ignore", "-m", f"tests.benchmarks.{name}", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"expected {name} {' '.join(words)} to end well, got {done.stderr.strip()[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
