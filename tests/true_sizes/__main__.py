"""Make the weights of published presets, load and compare them, run the presets, and print what each stage took."""

import argparse
import tempfile
from pathlib import Path

from tests.true_sizes.greedy import measure_codes
from tests.true_sizes.published import SIZES
from tests.true_sizes.runs import load_forms, run_preset, write_weights

FORMS = {"hf": ("model",), "audiocraft": ("audiocraft", "text_encoder")}
"""What each form of a model needs, as fields of `Weights`."""


def main() -> None:
    """Print a table for each preset that is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.true_sizes", description=__doc__)
    parser.add_argument("presets", nargs="+", choices=sorted(SIZES))
    for name in parser.parse_args().presets:
        with tempfile.TemporaryDirectory(prefix="segue-true-size-") as folder:
            weights = write_weights(name, Path(folder) / "weights")
            print(f"\n{name}\n", flush=True)
            for form, took in load_forms(weights, Path(folder)).items():
                print(f"{form}: loads in {took.ratio:.2f} times its {took.weights / 1e9:.1f} GB", flush=True)
            expected = measure_codes("transformers", weights.model).codes
            for form, places in FORMS.items():
                made = measure_codes("segue", *(getattr(weights, place) for place in places))
                equal = "those" if made.codes == expected else "NOT those"
                print(f"{form}: greedy codes are {equal} of transformers, {made.peak / 1e9:.1f} GB", flush=True)
            print("\n| stage | GB at most | seconds |\n| --- | --- | --- |", flush=True)
            (Path(folder) / "run").mkdir()
            for stage, taken in run_preset(name, weights, Path(folder) / "run"):
                print(f"| {stage} | {taken.peak / 1e9:.1f} | {taken.seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
