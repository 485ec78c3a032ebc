"""The benchmark of clips: it notices differences between the sides."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.benchmarks import clips, clips_loop


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small model, its order, and the clips of both sides."""
    import segue

    root, size = tmp_path_factory.mktemp("clips"), clips.SIZES["small"]
    clips.save_model(root / "model", size)
    clips.write_order(root / "requests.csv", size)
    (root / "loop").mkdir()
    clips_loop.work(str(root / "model"), str(root / "requests.csv"), root / "loop", at_once=3)
    segue.run(**clips.words_of_segue(root, str(root / "store")))
    return root


def test_both_sides_make_equal_codes_and_files_of_equal_length(root: Path) -> None:
    assert clips.check(str(root / "store"), root / "loop").startswith("100.0% of 20 frames' codes")
    assert set(clips.stage_seconds(str(root / "store"))) == {"requests", "generate", "gate", "decode"}


def test_the_loop_is_timed_with_every_batch_size_that_the_order_fills() -> None:
    assert [clips.loop_batches(count) for count in (4, 16, 64)] == [(8,), (8, 16), (8, 16, 32)]


def test_different_codes_are_reported(root: Path, tmp_path: Path) -> None:
    codes = np.load(root / "loop" / "codes.npz")
    np.savez(tmp_path / "codes.npz", **{name: (codes[name] + 1) % 2048 for name in codes})
    with pytest.raises(SystemExit, match=r"expected 99% of the loop's first codes, got 0\.0%"):
        clips.check(str(root / "store"), tmp_path)


def test_files_of_another_length_are_reported(root: Path, tmp_path: Path) -> None:
    (tmp_path / "codes.npz").write_bytes((root / "loop" / "codes.npz").read_bytes())
    for path in (root / "loop").glob("*.flac"):
        samples, rate = soundfile.read(path)
        soundfile.write(tmp_path / path.name, samples[:-1], rate)
    with pytest.raises(SystemExit, match="expected files of one length for clip"):
        clips.check(str(root / "store"), tmp_path)
