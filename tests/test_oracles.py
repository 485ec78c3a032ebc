"""The committed reference numbers are those that AudioCraft computes."""

import os
import subprocess
from pathlib import Path

import pytest

from model.conditioning.config import LabelConfig, WordsConfig
from tests.model.codec import test_adversarial
from tests.model.conditioning import test_labels
from tests.model.decoding import test_sampling
from tests.worlds.other_pack import write_other_pack

ORACLES = Path(__file__).parent / "oracles"


@pytest.mark.slow
def test_audiocraft_computes_the_committed_numbers_again(tmp_path: Path) -> None:
    python = os.environ.get("SEGUE_AUDIOCRAFT")
    if python is None:
        pytest.skip("SEGUE_AUDIOCRAFT names no Python that has AudioCraft 1.3.0: see tests/oracles/README.md")
    made = subprocess.run(
        [python, "-W", "ignore", ORACLES / "make_pack.py", tmp_path], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr[-3000:]


def test_every_pack_is_described() -> None:
    described = (ORACLES / "README.md").read_text()
    for path in ORACLES.glob("*.safetensors"):
        assert path.stem in described, path.stem
        assert path.with_suffix(".json").exists(), path.stem


def test_a_pack_of_other_sizes_is_read_as_its_json_describes(oracles: Path, tmp_path: Path) -> None:
    other = write_other_pack(oracles, tmp_path)
    test_adversarial.test_logits_and_feature_maps_equal_the_oracle(other)
    test_adversarial.test_logits_of_stereo_equal_the_oracle(other)
    test_labels.test_rows_of_texts_equal_the_oracle(other)
    for kind, key, texts in ((LabelConfig, "lut", "texts_noop"), (WordsConfig, "lut_ws", "texts_whitespace")):
        test_labels.test_labels_and_words_equal_the_oracle(other, kind, key, texts)
    test_sampling.test_distributions_equal_the_oracle(other)
    test_sampling.test_temperature_zero_is_the_argmax_of_the_oracle(other)
