"""Tracks as examples: codes and conditions of one span of time, and inconsistent tables."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from model.conditioning.config import MusicModelConfig
from schemas.tables import CHROMA, CLAP, TOKENS, TRACKS
from stages.train.corpus import Corpus, TrackWindow, code_frequencies, tiled_windows
from tests.worlds.tiny_models import CARDINALITY, CHROMA_RATE, CODEBOOKS, FRAME_RATE, world
from tests.worlds.training_world import recipe, world_corpus


@pytest.fixture
def corpus() -> Corpus:
    return world_corpus(world())


def test_an_example_has_the_codes_melody_and_embedding_of_one_span_of_time(tmp_path: Path) -> None:
    tables = world(tracks=2, seconds=12.0)
    clap = tables["clap"].to_pylist()
    clap[0] |= {"starts": [0.0, 5.0, 10.0], "embeddings": [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]}
    corpus = world_corpus(tables | {"clap": pa.Table.from_pylist(clap, schema=CLAP.schema)})
    model = recipe(tmp_path).model
    found = corpus.attributes(TrackWindow(0, 150), 50, model, "text")  # from second 6 on, for 2 s
    assert found.clap.tolist() == [0, 1, 0]
    assert found.chroma.shape == (16, 12)
    melody = np.array(tables["chroma"]["chroma"][0].as_py(), dtype=np.float32)
    assert np.array_equal(found.chroma.numpy(), melody[47:63])  # 6 s at 7.8125 frames a second
    assert corpus.attributes(TrackWindow(0, 290), 50, model, "text").chroma.shape == (3, 12)  # the track ends
    codes = corpus.batch([TrackWindow(0, 150), TrackWindow(1, 280)], 50, [found, found])
    whole = np.array(tables["tokens"]["codes"][0].as_py())
    assert np.array_equal(codes.codes[0].numpy(), whole[:, 150:200])
    assert codes.lengths.tolist() == [50, 20]


def test_a_track_without_chroma_or_embeddings_trains_with_null(tmp_path: Path) -> None:
    tables = world(tracks=4)
    fewer = {"chroma": tables["chroma"].slice(1), "clap": tables["clap"].slice(0, 3)}
    corpus = world_corpus(tables | fewer)
    model = recipe(tmp_path).model
    assert corpus.attributes(TrackWindow(0, 0), 50, model, None).chroma is None
    assert corpus.attributes(TrackWindow(1, 0), 50, model, None).chroma is not None
    assert corpus.attributes(TrackWindow(3, 0), 50, model, None).clap is None
    assert corpus.attributes(TrackWindow(0, 0), 50, model, None).clap is not None


def test_windows_of_a_split_lie_side_by_side_and_are_thinned_evenly(corpus: Corpus) -> None:
    assert tiled_windows(corpus, [3], 40, 30, 100) == [TrackWindow(3, 0), TrackWindow(3, 40)]
    assert tiled_windows(corpus, [3], 40, 20, 100) == [TrackWindow(3, 0), TrackWindow(3, 40), TrackWindow(3, 80)]
    assert tiled_windows(corpus, [3], 500, 400, 100) == [TrackWindow(3, 0)]
    thinned = tiled_windows(corpus, list(range(24)), 10, 10, 12)
    assert [window.track for window in thinned] == list(range(0, 24, 2))


def test_code_frequencies_count_every_code_of_the_given_tracks(corpus: Corpus) -> None:
    found = code_frequencies(corpus, [2, 5])
    codes = np.concatenate([corpus.window_codes(TrackWindow(track, 0), 10_000) for track in (2, 5)], axis=1)
    naive = [[int((codes[book] == value).sum()) for value in range(CARDINALITY)] for book in range(CODEBOOKS)]
    assert found.tolist() == naive


def test_inconsistent_tokens_are_refused(corpus: Corpus) -> None:
    tables = world(tracks=3)

    def build(**changed: object) -> None:
        rows = tables["tokens"].to_pylist()
        rows[1] |= changed
        world_corpus(tables | {"tokens": pa.Table.from_pylist(rows, schema=TOKENS.schema)})

    with pytest.raises(ValueError, match=r"expected one cardinality in all rows, got \[12, 16\]"):
        build(cardinality=16)
    with pytest.raises(ValueError, match=r"expected one number of codebooks, got \[1, 2\] \(track 0001\)"):
        build(codes=[[0] * 100])
    with pytest.raises(ValueError, match="expected 100 values in every list of codes of 0001, got 99"):
        build(codes=[[0] * 100, [0] * 99])
    with pytest.raises(ValueError, match="expected 100 codes in each codebook of 0001, got 99"):
        build(codes=[[0] * 99, [0] * 99])
    with pytest.raises(ValueError, match="expected codes below the cardinality 12, got 12"):
        build(codes=[[12] * 100, [0] * 100])
    with pytest.raises(ValueError, match="expected a row in tracks for every row of tokens, got none for 0000"):
        world_corpus(tables | {"tracks": tables["tracks"].slice(1)})


def test_a_frame_wise_melody_has_the_nearest_frame_in_time_for_each_frame_of_codes(tmp_path: Path) -> None:
    tables = world(tracks=1, seconds=12.0)
    numbered = np.repeat(np.arange(94, dtype=np.float32)[:, None], 12, axis=1)
    row = tables["chroma"].to_pylist()[0] | {"chroma": list(numbered)}
    corpus = world_corpus(tables | {"chroma": pa.Table.from_pylist([row], schema=CHROMA.schema)})
    chroma = {"frames": 50, "frame_rate": FRAME_RATE, "one_hot": False}
    model = recipe(tmp_path, model=recipe(tmp_path).model.model_dump() | {"chroma": chroma}).model
    for start in (0, 7, 131, 250):
        melody = corpus.attributes(TrackWindow(0, start), 50, model, None).chroma[:, 0].double().numpy()
        assert len(melody) == 50  # one for each frame of codes
        codes_at, melody_at = (start + np.arange(50)) / FRAME_RATE, melody / CHROMA_RATE
        assert np.abs(codes_at - melody_at).max() <= 0.5 / CHROMA_RATE + 1e-9
    ending = corpus.attributes(TrackWindow(0, 270), 50, model, None).chroma[:, 0]
    assert len(ending) == 30  # where the track ends
    assert ending[-1] == 93


def test_fields_come_from_the_columns_of_tracks_and_are_absent_where_these_are_empty() -> None:
    tables = world(tracks=3)
    told = {"moods": ["dark", "calm"], "artist": " Ada ", "bpm": 92.5, "seconds": 4.0, "title": "x"}
    said_nothing = {"moods": [], "artist": " ", "bpm": None, "genre": None}
    rows = [row | change for row, change in zip(tables["tracks"].to_pylist(), [told, said_nothing, {}], strict=True)]
    corpus = world_corpus(tables | {"tracks": pa.Table.from_pylist(rows, schema=TRACKS.schema)})
    names = ["bpm", "moods", "artist", "genre", "seconds"]
    assert corpus.fields(0, names) == {
        **{"bpm": 92.5, "moods": "dark, calm", "artist": " Ada ", "genre": "jazz", "seconds": 4.0}
    }
    assert corpus.fields(1, names) == {}
    assert corpus.fields(2, names) == {"moods": "dark", "genre": "jazz"}
    model = MusicModelConfig.model_validate(
        {
            "language_model": {"cross": ("genre", "bpm")},
            "description": None,
            "fields": {"genre": {"kind": "label"}, "bpm": {"kind": "number", "lowest": 40, "highest": 240}},
        }
    )
    given = corpus.attributes(TrackWindow(0, 0), 10, model, "never read")
    assert (given.names, dict(given.fields)) == (("genre", "bpm"), {"genre": "jazz", "bpm": 92.5})
