"""The committed reference numbers are what AudioCraft computes."""

import os
import subprocess
from pathlib import Path

import pytest

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
