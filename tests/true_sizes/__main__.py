"""Make the weights of published presets, run them, and print what each stage took."""

import argparse
import tempfile
from pathlib import Path

from tests.true_sizes.published import SIZES
from tests.true_sizes.runs import run_preset, write_weights


def main() -> None:
    """Print a table for each preset that is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.true_sizes", description=__doc__)
    parser.add_argument("presets", nargs="+", choices=sorted(SIZES))
    for name in parser.parse_args().presets:
        with tempfile.TemporaryDirectory(prefix="segue-true-size-") as folder:
            weights = write_weights(name, Path(folder) / "weights")
            print(f"\n{name}\n\n| stage | GB at most | seconds |\n| --- | --- | --- |", flush=True)
            (Path(folder) / "run").mkdir()
            for stage, taken in run_preset(name, weights, Path(folder) / "run"):
                print(f"| {stage} | {taken.peak / 1e9:.1f} | {taken.seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
