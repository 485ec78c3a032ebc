"""The stage `clap`."""

import numpy as np
import pytest

from schemas import WeightsRef
from stages import clap
from stages.demo.synthesis import compose
from stages.demo.synthesis.rendering import render
from tests.worlds.parts import put_together
from tests.worlds.world_of_sound import make_context, save_clap, tracks_of, write_sound


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_clap(tmp_path_factory.mktemp("clap"))


def mix(index: int) -> np.ndarray:
    return render(compose(0, index)).sum(0, keepdim=True).numpy()


def test_a_row_has_an_embedding_of_unit_length_for_every_window(tmp_path, model):
    long = write_sound(tmp_path / "long.wav", np.concatenate([mix(0), mix(1), mix(2)], axis=1)[:, :400_000])
    short = write_sound(tmp_path / "short.wav", mix(3)[:, :16_000])
    made = put_together(
        clap.shard(clap.Config(model=WeightsRef(str(model))), make_context(tmp_path), tracks_of(long, short))
    )
    assert [row["starts"] for row in made.rows] == [[0.0, 10.0, 15.0], [0.0]]
    for row in made.rows:
        assert np.stack(row["embeddings"]).shape == (len(row["starts"]), 16)
        assert np.allclose(np.linalg.norm(np.stack(row["embeddings"]), axis=1), 1, atol=1e-5)


def test_a_row_does_not_depend_on_the_rest_of_the_shard(tmp_path, model):
    paths = [write_sound(tmp_path / f"{index}.wav", mix(index)) for index in range(3)]
    config = clap.Config(model=WeightsRef(str(model)))
    together = put_together(clap.shard(config, make_context(tmp_path), tracks_of(*paths))).rows
    alone = put_together(clap.shard(config, make_context(tmp_path), tracks_of(paths[1]))).rows
    assert np.array_equal(np.stack(together[1]["embeddings"]), np.stack(alone[0]["embeddings"]))


def test_broken_recordings_are_refused_and_silence_has_an_embedding(tmp_path, model):
    silent = write_sound(tmp_path / "silent.wav", np.zeros((1, 32_000), np.float32))
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no sound at all")
    config = clap.Config(model=WeightsRef(str(model)))
    made = put_together(clap.shard(config, make_context(tmp_path), tracks_of(silent, broken, tmp_path / "missing.wav")))
    assert [row["track_id"] for row in made.rows] == ["silent.wav"]
    assert np.isfinite(np.stack(made.rows[0]["embeddings"])).all()
    assert {reject.key for reject in made.rejects} == {"broken.wav", "missing.wav"}
