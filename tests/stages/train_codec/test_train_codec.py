"""The codec's training as a stage: resume after a kill, its checkpoint and reports, and bad corpora."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, EncodecModel

from model.codec.evaluation import evaluate_codec, evaluate_scalar_codec, fidelity
from schemas.tables import RECONSTRUCTIONS, TRAINING
from schemas.weights import folder_digest
from stages import train_codec
from stages.audio import read_audio
from stages.audio.marks import read_marks
from stages.checkpoints.codecs import load_codec
from stages.pipeline.contract import Context, Progress, Stopped
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import StageFailed
from tests.worlds.bars import no_bars_of_transformers
from tests.worlds.codec_world import (
    ADVERSARIAL,
    CARDINALITY,
    CODEBOOKS,
    HOP,
    SAMPLE_RATE,
    context_of,
    piece,
    recipe,
    track,
    tracks,
    train_in,
)
from tests.worlds.patience import PATIENCE_SECONDS


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Rounding of sums depends on the number of threads; the processes that are killed here use one as well."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Ten pieces, two of them held out."""
    return tracks(tmp_path_factory.mktemp("music"))


@pytest.fixture(scope="module")
def undisturbed(rows: list[dict], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Context]:
    """The result of the plain recipe on these rows: the checkpoint's row, and the context of a store that nobody
    changes."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch, no_bars_of_transformers():
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        return train_in(folder / "store", rows, recipe())


def killed_at(place: Path, rows: list[dict], step: int, changes: dict) -> None:
    rows_file = place.with_suffix(".json")
    rows_file.write_text(json.dumps(rows))
    arguments = [sys.executable, "-m", "tests.worlds.codec_world", str(place), str(rows_file), json.dumps(changes)]
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([*arguments, str(step)], cwd=root, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == -9, done.stderr


@pytest.mark.slow  # the training below that is asked to stop continues like this one
@pytest.mark.parametrize("changes", [{}, ADVERSARIAL], ids=["alone", "against discriminators"])
def test_a_killed_training_ends_with_the_same_weights_bit_for_bit(tmp_path: Path, changes: dict) -> None:
    rows = tracks(tmp_path / "music")
    undisturbed, context = train_in(tmp_path / "a", rows, recipe(**changes))
    for step in (3, 6) if not changes else (7,):
        killed_at(tmp_path / "b", rows, step, changes)
    again, other = train_in(tmp_path / "b", rows, recipe(**changes))
    assert again["digest"] == undisturbed["digest"]
    assert again["metrics"] == undisturbed["metrics"]
    assert again["checkpoint_id"] == undisturbed["checkpoint_id"]
    for table in (TRAINING, RECONSTRUCTIONS):
        ours, theirs = (one.store.read(table, one.fingerprint).to_pylist() for one in (other, context))
        assert ours == theirs
        assert ours


def test_new_tags_do_not_change_the_identity_of_a_codec_but_another_split_does(tmp_path: Path) -> None:
    stage, rows = ConfiguredStage("train_codec", train_codec, recipe()), tracks(tmp_path / "music")
    plain = context_of(tmp_path / "store", stage, rows).identity
    for change, same in (({"title": "Blue", "genre": "jazz"}, True), ({"split": "test"}, False)):
        assert (context_of(tmp_path / "store", stage, [rows[0] | change, *rows[1:]]).identity == plain) is same


def test_the_number_of_reading_threads_does_not_change_the_codec(
    tmp_path: Path, rows: list[dict], undisturbed: tuple[dict, Context]
) -> None:
    assert undisturbed[1].settings.workers != 1
    one, _ = train_in(tmp_path / "a", rows, recipe(), workers=1)
    assert one["digest"] == undisturbed[0]["digest"]


def test_the_checkpoint_is_loaded_by_transformers_and_the_other_stages(
    rows: list[dict], undisturbed: tuple[dict, Context]
) -> None:
    row, context = undisturbed
    folder = context.store.local(row["path"])
    network = EncodecModel.from_pretrained(folder)
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    wav = piece(99)
    inputs = extractor(raw_audio=wav, sampling_rate=SAMPLE_RATE, return_tensors="pt")
    with torch.no_grad():
        codes = network.encode(**inputs).audio_codes[0]
    assert torch.equal(load_codec(folder).encode(torch.from_numpy(wav)[None, None]), codes)
    assert codes.shape == (1, CODEBOOKS, len(wav) // HOP)
    held_out = [torch.from_numpy(read_audio(one["uri"]).samples)[None] for one in rows if one["split"] == "valid"]
    assert evaluate_codec(load_codec(folder), held_out).fidelity.si_snr == pytest.approx(
        dict(row["metrics"])["valid_si_snr"], abs=1e-3
    )
    assert extractor.sampling_rate == network.config.sampling_rate == SAMPLE_RATE
    assert (row["kind"], row["steps"], row["rows_seen"]) == ("codec", 12, 8)
    assert row["parameters"] == sum(value.numel() for value in network.parameters())


ALONE = """
import sys
import torch
from safetensors.torch import load_file, save_file
from transformers import EncodecModel

torch.set_num_threads(1)
assert not {"model", "stages", "schemas"} & set(sys.modules)
network, given = EncodecModel.from_pretrained(sys.argv[1]).eval(), load_file(sys.argv[2])
with torch.no_grad():
    codes = network.encode(given["wav"]).audio_codes
    sound = network.decode(codes, [None]).audio_values
save_file({"codes": codes[0].contiguous(), "sound": sound.contiguous()}, sys.argv[3])
"""


def test_transformers_alone_in_a_new_process_gives_the_same_codes_and_sound(
    tmp_path: Path, undisturbed: tuple[dict, Context]
) -> None:
    row, context = undisturbed
    folder, wav = context.store.local(row["path"]), torch.from_numpy(piece(99))[None, None]
    save_file({"wav": wav}, tmp_path / "given.safetensors")
    places = [str(folder), str(tmp_path / "given.safetensors"), str(tmp_path / "made.safetensors")]
    # Outside of this project's folder, and isolated from the environment, so that nothing of it can be imported.
    subprocess.run([sys.executable, "-I", "-c", ALONE, *places], cwd=tmp_path, check=True, timeout=PATIENCE_SECONDS)
    made, codec = load_file(tmp_path / "made.safetensors"), load_codec(folder)
    codes = codec.encode(wav)
    assert torch.equal(made["codes"], codes)
    torch.testing.assert_close(made["sound"], codec.decode(codes), rtol=1e-5, atol=1e-6)


def test_training_rows_and_metrics_describe_the_codec(undisturbed: tuple[dict, Context]) -> None:
    row, context = undisturbed
    logged = context.store.read(TRAINING, context.fingerprint).to_pylist()
    assert [(one["step"], one["split"]) for one in logged] == [
        *((5, "train"), (6, "valid"), (10, "train"), (12, "train"), (12, "valid"))
    ]
    learning = [one for one in logged if one["split"] == "train"]
    assert all(one["loss"] > 0 and one["learning_rate"] > 0 for one in learning[:2])
    assert {name for name, _ in learning[0]["metrics"]} == {"waveform", "spectral", "commitment"}
    metrics = dict(row["metrics"])
    last = dict(logged[-1]["metrics"])
    assert metrics["valid_si_snr"] == last["si_snr"]
    assert 0 < metrics["valid_si_snr_error"] == last["si_snr_error"]
    for level in range(1, CODEBOOKS + 1):
        assert 1 / CARDINALITY <= metrics[f"valid_codebook_{level}_used"] <= 1
        assert 1 <= metrics[f"valid_codebook_{level}_perplexity"] <= CARDINALITY + 1e-3
    assert {"valid_log_mel_distance", "valid_si_snr_untrained", "valid_log_mel_distance_untrained"} <= set(metrics)
    # 3 codebooks of 4 bits, 100 frames a second.
    assert metrics["valid_bit_rate"] == pytest.approx(1.2)


def test_every_split_with_recordings_has_its_own_metrics(
    tmp_path: Path, rows: list[dict], undisturbed: tuple[dict, Context]
) -> None:
    def names(split: str) -> set[str]:
        return {name.removeprefix(f"{split}_") for name in metrics if name.startswith(f"{split}_")}

    metrics = dict(undisturbed[0]["metrics"])
    assert names("train") == {name for name in names("valid") if not name.endswith(("_untrained", "_scalar"))}
    assert {"si_snr", "multi_scale_mel_distance", "bit_rate", "codebook_3_used"} <= names("train")
    assert names("test") == set()
    without, of_test = metrics, [row | {"split": "test"} if row is rows[1] else row for row in rows]
    metrics = dict(train_in(tmp_path / "b", of_test, recipe())[0]["metrics"])
    # For a single recording, the error of the mean is unknown.
    assert names("test") == names("valid") - {"si_snr_error", "si_snr_error_untrained"}
    assert metrics["test_si_snr"] != metrics["train_si_snr"] != without["train_si_snr"]


def test_a_scalar_codec_of_the_same_bit_rate_is_evaluated_on_the_same_recordings(
    rows: list[dict], undisturbed: tuple[dict, Context]
) -> None:
    metrics = dict(undisturbed[0]["metrics"])
    held_out = [torch.from_numpy(read_audio(one["uri"]).samples)[None] for one in rows if one["split"] == "valid"]
    plain = evaluate_scalar_codec(held_out, SAMPLE_RATE, metrics["valid_bit_rate"])
    assert 1.1 < metrics["valid_bit_rate_scalar"] == plain.bit_rate <= metrics["valid_bit_rate"]
    for name in ("si_snr", "log_mel_distance", "multi_scale_mel_distance"):
        assert metrics[f"valid_{name}_scalar"] == pytest.approx(getattr(plain.fidelity, name))


def test_reconstructions_are_made_of_held_out_recordings_by_the_checkpoint(tmp_path: Path) -> None:
    rows = tracks(tmp_path / "music", 30)
    row, context = train_in(tmp_path / "store", rows, recipe(reconstruction_seconds=1.5))
    kept = context.store.read(RECONSTRUCTIONS, context.fingerprint).to_pylist()
    held_out = {one["track_id"]: one["uri"] for one in rows if one["split"] == "valid"}
    assert [one["number"] for one in kept] == [1, 2, 3, 4]
    assert len({one["track_id"] for one in kept} & set(held_out)) == 4
    codec = load_codec(context.store.local(row["path"]))
    for one in kept:
        sounds = {name: context.store.local(one[name]) for name in ("original", "decoded")}
        original, decoded = (torch.from_numpy(read_audio(str(place)).samples) for place in sounds.values())
        assert original.shape == decoded.shape == (1, 12_000)
        assert (one["sample_rate"], one["channels"], one["seconds"]) == (SAMPLE_RATE, 1, 1.5)
        torch.testing.assert_close(
            original[0], torch.from_numpy(read_audio(held_out[one["track_id"]]).samples)[0, :12_000]
        )
        again = codec.decode(codec.encode(original[None]))[0, :, :12_000]
        assert float((again - decoded).abs().max()) < 0.02
        found = fidelity(decoded[None], original[None], SAMPLE_RATE)
        assert one["si_snr"] == pytest.approx(found.si_snr, abs=0.05)
        for name, place in sounds.items():
            assert hashlib.sha256(place.read_bytes()).hexdigest() == one[f"{name}_sha256"]
            with place.open("rb") as file:  # an excerpt of a recording was not made by a model
                assert [mark.is_generated for mark in read_marks(file)] == ([True] if name == "decoded" else [])
    # The codec's folder contains only the codec.
    assert folder_digest(context.store.local(row["path"])) == row["digest"]


def test_a_stereo_codec_keeps_both_sides_and_recordings_with_a_silent_start_are_skipped(
    tmp_path: Path,
) -> None:
    rows = tracks(tmp_path / "music")
    late = np.concatenate([np.zeros(8_000, np.float32), piece(50)])
    rows = [track(tmp_path / "late.wav", late, "valid"), *rows]
    network = recipe().network.model_copy(update={"channels": 2})
    config = recipe(network=network.model_dump(), reconstruction_seconds=1.0)
    row, context = train_in(tmp_path / "store", rows, config)
    kept = context.store.read(RECONSTRUCTIONS, context.fingerprint).to_pylist()
    assert [one["channels"] for one in kept] == [2, 2]
    assert rows[0]["track_id"] not in {one["track_id"] for one in kept}
    for one in kept:
        assert read_audio(str(context.store.local(one["decoded"]))).samples.shape == (2, 8_000)
    metrics = dict(row["metrics"])
    assert metrics["valid_bit_rate_scalar"] <= metrics["valid_bit_rate"]


def test_the_number_of_reconstructions_changes_neither_the_recipe_nor_the_codec(
    tmp_path: Path, rows: list[dict], undisturbed: tuple[dict, Context]
) -> None:
    some, context = undisturbed
    none, other = train_in(tmp_path / "b", rows, recipe(reconstructions=0))
    assert context.store.read(RECONSTRUCTIONS, context.fingerprint).num_rows == 2
    assert other.store.read(RECONSTRUCTIONS, other.fingerprint).num_rows == 0
    assert not other.store.exists("audio")
    assert [some[name] for name in ("checkpoint_id", "digest", "metrics")] == [
        none[name] for name in ("checkpoint_id", "digest", "metrics")
    ]


def test_training_rows_contain_the_losses_of_the_discriminators(tmp_path: Path) -> None:
    _, context = train_in(tmp_path / "store", tracks(tmp_path / "music"), recipe(**ADVERSARIAL))
    logged = [one for one in context.store.read(TRAINING, context.fingerprint).to_pylist() if one["split"] == "train"]
    named = {name for one in logged for name, _ in one["metrics"]}
    names = {f"{name}_{kind}" for name in ("adversarial", "features") for kind in ("spectrogram", "period", "scale")}
    assert named == {"waveform", "spectral", "commitment", "discriminator", *names}
    assert all(value == value for one in logged for _, value in one["metrics"])


def test_training_on_music_beats_the_untrained_codec_on_held_out_pieces(tmp_path: Path) -> None:
    training = recipe(optimization={"steps": 150, "ema_decay": 0.0}).training
    training = training.model_copy(update={"quantizer_start": 40})
    config = recipe(training=training.model_dump(), valid_every=1000, save_every=1000)
    metrics = dict(train_in(tmp_path / "store", tracks(tmp_path / "music", 30), config)[0]["metrics"])
    assert metrics["valid_si_snr"] > metrics["valid_si_snr_untrained"] + 3
    assert metrics["valid_log_mel_distance"] < metrics["valid_log_mel_distance_untrained"]


class StopAt(Progress):
    """Asks a run to stop after its first step."""

    context = None

    def advance(self, count: int = 1, note: str = "") -> None:
        if note.startswith("loss"):
            self.context.stop.set()


class Resumed(Progress):
    """Notes how many steps an earlier run had made."""

    steps = 0

    def advance(self, count: int = 1, note: str = "") -> None:
        self.steps += count if note == "resumed" else 0


def test_a_training_stopped_on_one_machine_continues_on_another(
    tmp_path: Path, rows: list[dict], undisturbed: tuple[dict, Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"memory:/{tmp_path}/store"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    stage = ConfiguredStage("train_codec", train_codec, recipe())
    context = context_of(url, stage, rows)
    context.progress = StopAt()
    context.progress.context = context
    with pytest.raises(Stopped):
        train_codec.reduce(stage.config, context, context.rows(train_codec.READS[0]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    resumed = Resumed()
    finished, context = train_in(url, rows, recipe(), resumed)
    assert resumed.steps == 1
    assert finished["digest"] == undisturbed[0]["digest"]
    assert context.store.folders("scratch") == []


def test_a_stopped_training_keeps_its_state(
    tmp_path: Path, rows: list[dict], undisturbed: tuple[dict, Context]
) -> None:
    stage = ConfiguredStage("train_codec", train_codec, recipe())
    context = context_of(tmp_path / "a", stage, rows)
    context.progress = StopAt()
    context.progress.context = context
    with pytest.raises(Stopped):
        train_codec.reduce(stage.config, context, context.rows(train_codec.READS[0]))
    assert list(context.scratch().glob("*.safetensors"))
    finished, _ = train_in(tmp_path / "a", rows, recipe())
    assert finished["digest"] == undisturbed[0]["digest"]


def test_a_codec_that_no_step_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)
    with pytest.raises(
        StageFailed, match="expected 12 steps of training to change the weights, got exactly the initial"
    ):
        train_in(tmp_path / "store", tracks(tmp_path / "music"), recipe())
    assert not (tmp_path / "store" / "models").exists()


def test_without_a_valid_split_a_share_of_the_training_tracks_is_held_out(tmp_path: Path) -> None:
    rows = [row | {"split": "train"} for row in tracks(tmp_path / "music")]
    row, _ = train_in(tmp_path / "store", rows, recipe(held_out_share=0.3))
    assert row["rows_seen"] == 7
