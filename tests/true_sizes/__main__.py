"""Make the weights of published presets, load and compare them, run the presets, and print what each stage took."""

import argparse
import tempfile
from pathlib import Path

from tests.true_sizes.greedy import measure_codes
from tests.true_sizes.published import SIZES
from tests.true_sizes.runs import Weights, load_forms, maker_of, run_preset

FORMS = {"float32": ("model",), "audiocraft": ("audiocraft", "text_encoder")}
"""What each form of a model needs, as fields of `Weights`."""

PARTS = ("loading", "codes", "preset")


def main() -> None:
    """Print what is asked for of each preset that is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.true_sizes", description=__doc__)
    parser.add_argument("presets", nargs="+", choices=sorted(SIZES))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    asked = parser.parse_args()
    for name in asked.presets:
        with tempfile.TemporaryDirectory(prefix="segue-true-size-") as folder:
            (Path(folder) / "weights").mkdir()
            weights = Weights(name, Path(folder) / "weights")
            print(f"\n{name}\n", flush=True)
            if "loading" in asked.only:
                print_loading(weights, Path(folder))
            if "codes" in asked.only:
                print_codes(name, weights)
            if "preset" in asked.only:
                (Path(folder) / "run").mkdir()
                print_preset(name, weights, Path(folder) / "run")


def print_loading(weights: Weights, folder: Path) -> None:
    """Print what loading each form takes."""
    for form, took in load_forms(weights, folder).items():
        print(f"{form}: loads in {took.ratio:.2f} times its {took.weights / 1e9:.1f} GB", flush=True)


def print_codes(name: str, weights: Weights) -> None:
    """Print whether greedy codes are those of transformers."""
    expected = measure_codes("transformers", weights.model)
    print(f"transformers: greedy codes in {expected.peak / 1e9:.1f} GB", flush=True)
    for form, places in FORMS.items():
        made = measure_codes(maker_of(name), *(getattr(weights, place) for place in places))
        equal = "those" if made.codes == expected.codes else "NOT those"
        print(f"{form}: greedy codes are {equal} of transformers, {made.peak / 1e9:.1f} GB", flush=True)


def print_preset(name: str, weights: Weights, folder: Path) -> None:
    """Print a table of what each stage of the preset took."""
    print("\n| stage | GB at most | seconds |\n| --- | --- | --- |", flush=True)
    for stage, taken in run_preset(name, weights, folder):
        print(f"| {stage} | {taken.peak / 1e9:.1f} | {taken.seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
