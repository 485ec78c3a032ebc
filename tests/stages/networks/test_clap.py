"""CLAP in its two forms: they agree, windows are placed, no window depends on others, and no pickle is run."""

import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, ClapFeatureExtractor, ClapModel, EncodecFeatureExtractor

from stages.networks.clap import load_joint_embedder, window_starts
from tests.worlds.clap_models import SENTENCES, laion_network, write_laion, write_transformers, write_vocabulary


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tmp_path_factory.mktemp("clap")


@pytest.fixture(scope="module")
def both(made):
    folder, network = made, laion_network(seed=0)
    write_laion(folder / "laion.pt", network)
    write_transformers(folder / "transformers", network)
    vocabulary = write_vocabulary(folder / "vocabulary")
    return (
        load_joint_embedder(folder / "laion.pt", vocabulary=vocabulary),
        load_joint_embedder(folder / "transformers"),
    )


def sound(seconds: float, rate: int = 48_000, channels: int = 1) -> np.ndarray:
    generator = np.random.default_rng(0)
    time = np.arange(round(seconds * rate)) / rate
    tones = [np.sin(2 * np.pi * generator.uniform(100, 2000) * time) * 0.3 for _ in range(channels)]
    return np.stack(tones).astype(np.float32) + 0.05 * generator.standard_normal((channels, len(time)), np.float32)


def test_the_two_forms_agree_on_sound(both):
    laion, folder = both
    recording = sound(13.0)
    found, other = (model.embed_audio(recording, 48_000, 10.0) for model in (laion, folder))
    assert found.starts == other.starts == [0.0, 3.0]
    assert np.abs(found.embeddings - other.embeddings).max() < 1e-5
    # The two windows differ by far more than that, so the comparison is meaningful.
    assert np.abs(found.embeddings[0] - found.embeddings[1]).max() > 1e-4


def test_the_two_forms_agree_on_a_short_stereo_recording_at_another_rate(both):
    laion, folder = both
    recording = sound(3.3, 22_050, 2)
    found, other = (model.embed_audio(recording, 22_050, 10.0) for model in (laion, folder))
    assert found.starts == other.starts == [0.0]
    assert np.abs(found.embeddings - other.embeddings).max() < 1e-5


def test_a_folder_gives_the_embeddings_of_transformers_own_extractor_and_model(both, made):
    recording = sound(13.0)
    found = both[1].embed_audio(recording, 48_000, 10.0)
    folder = made / "transformers"
    network, extractor = ClapModel.from_pretrained(folder).eval(), AutoFeatureExtractor.from_pretrained(folder)
    pcm = (recording[0] * 32_767).astype(np.int16).astype(np.float32) / np.float32(32_767)
    for start, embedding in zip((0, 144_000), found.embeddings, strict=True):
        features = extractor(pcm[start : start + 480_000], sampling_rate=48_000, return_tensors="pt")
        with torch.no_grad():
            expected = network.get_audio_features(features["input_features"].float()).pooler_output[0]
        assert np.abs(embedding - expected.numpy()).max() < 1e-6


def test_windows_in_one_batch_have_the_embeddings_that_they_have_alone(both, made):
    recording = sound(33.0)
    for alone, path in zip(both, (made / "laion.pt", made / "transformers"), strict=True):
        together = load_joint_embedder(path, windows_at_once=3)
        found, expected = (model.embed_audio(recording, 48_000, 10.0) for model in (together, alone))
        assert found.starts == expected.starts == [0.0, 10.0, 20.0, 23.0]
        assert np.abs(found.embeddings - expected.embeddings).max() < 1e-6


def test_the_two_forms_agree_on_words(both):
    laion, folder = both
    found, other = (model.embed_text(SENTENCES) for model in (laion, folder))
    assert found.shape == (3, 512)
    assert np.abs(found - other).max() < 1e-5
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_embeddings_have_unit_length_and_are_the_same_in_every_batch(both):
    _, model = both
    together, alone = model.embed_text(SENTENCES), model.embed_text(SENTENCES[1:2])
    assert np.array_equal(together[1:2], alone)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    recording = sound(21.0)
    long, short = (model.embed_audio(part, 48_000, 10.0) for part in (recording, recording[:, :480_000]))
    assert np.array_equal(long.embeddings[0], short.embeddings[0])


@pytest.mark.parametrize(
    ("length", "starts"), [(1, [0]), (100, [0]), (101, [0, 1]), (200, [0, 100]), (250, [0, 100, 150])]
)
def test_windows_lie_side_by_side_and_the_last_ends_with_the_recording(length, starts):
    assert window_starts(length, 100, 100) == starts


def test_a_checkpoint_that_names_code_is_refused_and_the_code_does_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"state_dict": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(ValueError, match="cannot be loaded safely"):
        load_joint_embedder(tmp_path / "trap.pt")
    assert not (tmp_path / "ran").exists()


def test_files_and_folders_without_a_clap_model_are_refused_with_the_reason(tmp_path):
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty").mkdir()
    for name, reason in (("other.pt", "LAION CLAP"), ("text.pt", "loaded safely"), ("empty", "CLAP folder")):
        with pytest.raises(ValueError, match=reason):
            load_joint_embedder(tmp_path / name)


@pytest.mark.parametrize(
    ("kind", "padding", "reason"),
    [
        (ClapFeatureExtractor, "mirror", "ClapFeatureExtractor with the padding 'mirror'"),
        (EncodecFeatureExtractor, None, "a EncodecFeatureExtractor"),
    ],
)
def test_a_folder_that_prepares_sound_in_another_way_is_refused(tmp_path, both, made, kind, padding, reason):
    shutil.copytree(made / "transformers", tmp_path / "copy")
    kind(**{"padding": padding, "truncation": "rand_trunc"} if padding else {}).save_pretrained(tmp_path / "copy")
    with pytest.raises(ValueError, match=reason):
        load_joint_embedder(tmp_path / "copy")


def test_a_folder_with_missing_weights_is_refused_and_not_filled_with_random_ones(tmp_path):
    write_transformers(tmp_path, laion_network(seed=1))
    weights = load_file(tmp_path / "model.safetensors")
    del weights["text_projection.linear1.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"no weights for text_projection\.linear1\.weight"):
        load_joint_embedder(tmp_path)


def test_a_laion_checkpoint_without_a_vocabulary_embeds_sound_and_refuses_words(tmp_path):
    write_laion(tmp_path / "laion.pt", laion_network(seed=1))
    model = load_joint_embedder(tmp_path / "laion.pt")
    assert model.embed_audio(sound(1.0), 48_000, 10.0).embeddings.shape == (1, 512)
    with pytest.raises(ValueError, match="vocabulary"):
        model.embed_text(["folk"])
