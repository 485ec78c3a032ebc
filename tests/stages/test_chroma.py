"""The stage `chroma` and the separation of stems for it."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from demucs.apply import BagOfModels, apply_model
from demucs.demucs import Demucs
from demucs.htdemucs import HTDemucs
from demucs.pretrained import get_model
from transformers import MusicgenMelodyFeatureExtractor

from model.chroma import one_hot
from schemas import WeightsRef
from schemas.weights import LocalWeights
from stages import chroma
from stages.demo.synthesis import compose
from stages.demo.synthesis.rendering import render
from stages.networks.demucs import Separator, load_separator, melody_chroma
from tests.worlds.oracles import read_pack
from tests.worlds.parts import put_together
from tests.worlds.world_of_sound import make_context, save_separator, tracks_of, write_sound


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return save_separator(tmp_path_factory.mktemp("separator"))


@pytest.fixture(scope="module")
def separator(repository):
    return load_separator(LocalWeights("test", repository, ""))


def mix(index: int = 0) -> np.ndarray:
    return render(compose(0, index)).sum(0, keepdim=True).numpy()


def test_rows_hold_raw_chroma_at_musicgens_frame_rate(tmp_path, repository):
    paths = [write_sound(tmp_path / f"{index}.wav", mix(index)) for index in range(2)]
    config = chroma.Config(separator=WeightsRef(str(repository)))
    made = put_together(chroma.shard(config, make_context(tmp_path), tracks_of(*paths)))
    assert [row["track_id"] for row in made.rows] == ["0.wav", "1.wav"]
    assert made.rejects == []
    for row, index in zip(made.rows, range(2), strict=True):
        found = np.stack(row["chroma"])
        assert row["frame_rate"] == 7.8125
        assert found.shape == (round(compose(0, index).seconds * 32_000) // 4096 + 1, 12)
        assert found.dtype == np.float32
        assert np.allclose(found.max(1), 1, atol=1e-6)


def test_a_row_does_not_depend_on_the_rest_of_the_shard(tmp_path, repository):
    paths = [write_sound(tmp_path / f"{index}.wav", mix(index)[:, :48_000]) for index in range(3)]
    config = chroma.Config(separator=WeightsRef(str(repository)))
    together = put_together(chroma.shard(config, make_context(tmp_path), tracks_of(*paths))).rows
    alone = put_together(chroma.shard(config, make_context(tmp_path), tracks_of(paths[2]))).rows
    assert np.array_equal(np.stack(together[2]["chroma"]), np.stack(alone[0]["chroma"]))


def test_without_a_separator_the_chroma_is_that_of_the_mix(tmp_path):
    path = write_sound(tmp_path / "a.wav", mix())
    row = put_together(chroma.shard(chroma.Config(separator=None), make_context(tmp_path), tracks_of(path))).rows[0]
    expected = melody_chroma(mix(), 16_000, None)
    # At the end, where the piece has faded out, the 16 bits of the file decide.
    assert (np.stack(row["chroma"]).argmax(1) == expected.argmax(1))[:-8].all()


def test_silent_missing_and_broken_recordings_are_refused_and_the_others_processed(tmp_path):
    good = write_sound(tmp_path / "good.wav", mix()[:, :32_000])
    silent = write_sound(tmp_path / "silent.wav", np.zeros((1, 32_000), np.float32))
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no sound at all")
    tracks = tracks_of(silent, broken, tmp_path / "missing.wav", good)
    made = put_together(chroma.shard(chroma.Config(separator=None), make_context(tmp_path), tracks))
    assert [row["track_id"] for row in made.rows] == ["good.wav"]
    kinds = {reject.key: reject.kind for reject in made.rejects}
    assert kinds.keys() == {"silent.wav", "broken.wav", "missing.wav"}
    assert {reject.key for reject in made.rejects if reject.passing} == {"missing.wav"}
    assert kinds["silent.wav"] == "silent"
    assert all(reject.message for reject in made.rejects)


def test_oracle_the_chroma_of_a_stored_recording_equals_the_reference(tmp_path, oracles):
    pack = read_pack(oracles, "chroma")
    tensors, facts = pack.tensors, pack.facts
    path = tmp_path / "a.wav"
    soundfile.write(path, tensors["wav"].numpy().T, facts["sample_rate"], subtype="FLOAT")
    sizes = {"sample_rate": facts["sample_rate"], "window": facts["winlen"], "hop": facts["winhop"]}
    config = chroma.Config(separator=None, **sizes)
    row = put_together(chroma.shard(config, make_context(tmp_path), tracks_of(path))).rows[0]
    expected = tensors["raw.chroma"][0]
    torch.testing.assert_close(torch.tensor(np.stack(row["chroma"])), expected, rtol=1e-4, atol=1e-5)


def test_the_melody_is_the_sum_of_vocals_and_other_as_in_audiocraft(separator):
    samples = mix()[:, :40_000]
    with torch.no_grad():
        whole = apply_model(separator.bag, torch.from_numpy(samples)[None], shifts=0, overlap=0.25)
    sources = separator.bag.sources
    expected = whole[0, sources.index("vocals"), 0] + whole[0, sources.index("other"), 0]
    assert torch.equal(torch.from_numpy(separator.melody(samples, 16_000)[0]), expected)


def test_transformers_computes_the_same_melody_from_the_same_stems(separator):
    samples = mix()[:, :96_000]
    extractor = MusicgenMelodyFeatureExtractor(feature_size=12, sampling_rate=32_000, stem_indices=[2, 3])
    with torch.no_grad():
        whole = apply_model(separator.bag, torch.from_numpy(samples)[None], shifts=0, overlap=0.25)
    theirs = extractor(whole, sampling_rate=16_000, return_tensors="pt")["input_features"][0]  # type: ignore[arg-type]
    ours = one_hot(torch.from_numpy(melody_chroma(samples, 16_000, separator)))
    # Their resampler differs (torchaudio's), so a frame between two equally strong classes may differ.
    assert ours.shape == theirs.shape
    assert (ours == theirs).all(1).float().mean() >= 0.9


def as_demucs_separates(separator: Separator, samples: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        stems = apply_model(separator.bag, torch.from_numpy(samples)[None], shifts=0, overlap=0.25)[0]
    sources = separator.bag.sources
    return (stems[sources.index("vocals")] + stems[sources.index("other")]).mean(0)


def test_a_recording_of_any_length_is_separated_as_by_demucs(separator):
    long = np.concatenate([mix(index) for index in range(8)], axis=1)
    assert long.shape[1] > 60 * 16_000
    # A segment is 16,000 samples here, and the next begins 12,000 samples later.
    for length in (1, 7_999, 12_000, 12_001, 16_000, 16_001, 28_000, 40_000, long.shape[1]):
        found = torch.from_numpy(separator.melody(long[:, :length], 16_000)[0])
        assert torch.equal(found, as_demucs_separates(separator, long[:, :length])), length


def test_segments_in_one_batch_give_the_same_sound_as_alone(separator):
    samples = np.concatenate([mix(index) for index in range(2)], axis=1)
    alone = separator.melody(samples, 16_000)
    together = Separator(separator.bag, "cpu", segments_at_once=4).melody(samples, 16_000)
    assert np.abs(together - alone).max() < 1e-5 * np.abs(alone).max()


def test_a_bag_of_several_networks_in_stereo_is_weighted_as_by_demucs():
    sizes = {"channels": 8, "nfft": 512, "depth": 2, "t_layers": 1, "t_heads": 2, "bottom_channels": 16}
    torch.manual_seed(0)
    networks = [
        HTDemucs(["drums", "bass", "other", "vocals"], samplerate=16_000, segment=seconds, **sizes)  # type: ignore[arg-type]
        for seconds in (1, 2, 1)
    ]
    networks.append(Demucs(["drums", "bass", "other", "vocals"], samplerate=16_000, segment=3, channels=4, depth=2))
    # The first network does not contribute to the melody.
    weights = [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.5], [0.0, 1.0, 0.5, 0.0], [0.0, 0.0, 0.0, 3.0]]
    separator = Separator(BagOfModels(networks, weights), "cpu")
    samples = np.concatenate([mix(0), mix(1)[:, : mix(0).shape[1]]])[:, :70_000]
    found = torch.from_numpy(separator.melody(samples, 16_000)[0])
    expected = as_demucs_separates(separator, samples)
    assert float((found - expected).abs().max()) < 1e-5 * float(expected.abs().max())


def test_stereo_mono_and_other_rates_are_converted_for_the_separator(separator):
    sound = mix()[:, :32_000]
    mono = separator.melody(sound, 16_000)
    stereo = separator.melody(np.repeat(sound, 2, axis=0), 16_000)
    assert np.allclose(mono, stereo, atol=1e-6)
    assert separator.melody(np.repeat(sound, 3, axis=1), 48_000).shape == mono.shape


def test_demucs_itself_reads_the_repository(repository):
    found = get_model("segue", repo=repository)
    assert isinstance(found, BagOfModels)
    ours = load_separator(LocalWeights("test", repository, "")).bag
    for name, value in found.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name])


def test_a_single_file_and_a_published_name_are_repositories_too(repository, tmp_path):
    file = next(repository.glob("*.th"))
    assert load_separator(LocalWeights("test", file, "")).sample_rate == 16_000
    published = tmp_path / "demucs-htdemucs"
    published.mkdir()
    package = torch.load(file, weights_only=False)
    torch.save(package, published / "955717e8.th")
    assert load_separator(LocalWeights("demucs:htdemucs", published, "")).bag.sources == package["kwargs"]["sources"]


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_repository_with_a_pickle_that_names_code_is_refused_without_running_it(tmp_path):
    torch.save(
        {"klass": HTDemucs, "args": (), "kwargs": {"sources": Trap(tmp_path / "ran")}, "state": {}}, tmp_path / "x.th"
    )
    with pytest.raises(ValueError, match="cannot be loaded safely"):
        load_separator(LocalWeights("test", tmp_path, ""))
    assert not (tmp_path / "ran").exists()


def test_damaged_ambiguous_and_empty_repositories_are_refused_with_the_reason(repository, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(repository, damaged)
    file = next(damaged.glob("*.th"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    (tmp_path / "empty").mkdir()
    lost = tmp_path / "lost"
    shutil.copytree(repository, lost)
    (lost / "segue.yaml").write_text("models: [another]\n")
    odd = tmp_path / "odd"
    shutil.copytree(repository, odd)
    (odd / "segue.yaml").write_text("- a\n")
    for folder, reason in ((damaged, "digest"), (tmp_path / "empty", "0 .th"), (lost, "another"), (odd, "`models`")):
        with pytest.raises(ValueError, match=reason):
            load_separator(LocalWeights("test", folder, ""))


def test_a_recording_without_samples_is_refused():
    with pytest.raises(ValueError, match="at least 1 sample"):
        melody_chroma(np.zeros((1, 0), np.float32), 16_000, None)


def test_a_real_recording_has_a_melody_and_a_silent_one_is_refused(tmp_path, corpus, repository):
    tracks = tracks_of(corpus / "orchestral" / "silence.ogg", corpus / "electronic" / "electro_1.mp3")
    made = put_together(
        chroma.shard(chroma.Config(separator=WeightsRef(str(repository))), make_context(tmp_path), tracks)
    )
    assert [(reject.key, reject.kind) for reject in made.rejects] == [("silence.ogg", "silent")]
    assert [row["track_id"] for row in made.rows] == ["electro_1.mp3"]
    found = np.stack(made.rows[0]["chroma"])
    assert abs(len(found) - 15 * 7.8125) < 3
    assert (found.max(1) > 0.99).mean() > 0.9
