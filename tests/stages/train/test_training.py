"""Errors before a training begins: data, recipes and conditions that do not fit together."""

from pathlib import Path

import pyarrow as pa
import pytest

from schemas.tables import CHROMA, CLAP, TOKENS, TRACKS
from stages import train
from stages.pipeline.runner import StageFailed
from tests.worlds.tiny_models import FRAME_RATE, world
from tests.worlds.training_world import LANGUAGE_MODEL, fill, recipe, train_in


def failing(folder: Path, config: train.Config, **changed: pa.Table) -> str:
    fill(folder, **changed)
    with pytest.raises(StageFailed) as caught:
        train_in(folder, config)
    assert not (folder / "store" / "models").exists()
    return str(caught.value)


def test_unusable_data_is_refused_with_what_was_expected_and_found(tmp_path: Path) -> None:
    config = recipe(tmp_path)
    assert "expected codes of at least one track in tokens, got none" in failing(
        tmp_path, config, tokens=TOKENS.schema.empty_table()
    )
    assert "expected rows in chroma for a model that reads chroma, got none" in failing(
        tmp_path, config, chroma=CHROMA.schema.empty_table()
    )
    assert "expected rows in clap" in failing(tmp_path, config, clap=CLAP.schema.empty_table())
    test_only = [row | {"split": "test"} for row in world()["tracks"].to_pylist()]
    message = failing(tmp_path, config, tracks=pa.Table.from_pylist(test_only, schema=TRACKS.schema))
    assert "expected tracks of the split train that last at least 1.0 s, got 0 of 24 tracks in it" in message
    assert "(the longest lasts 0.52 s)" in failing(tmp_path, config, **world(seconds=0.52))
    other = recipe(
        tmp_path,
        model=config.model.model_dump()
        | {"language_model": config.model.language_model.model_dump() | {"cardinality": 9}},
    )
    assert "expected tokens of 2 codebooks with 9 codes" in failing(tmp_path, other)
    assert "expected segments longer than the largest delay of 1 frames, got 1" in failing(
        tmp_path, recipe(tmp_path, segment_seconds=0.04)
    )
    wide = recipe(tmp_path, model=config.model.model_dump() | {"clap": {"width": 5}})
    assert "expected joint embeddings of width 5, got 3" in failing(tmp_path, wide)


def test_a_model_that_reads_text_without_a_text_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a text encoder if and only if the model reads text"):
        recipe(tmp_path, text_encoder=None)


def test_fields_that_no_training_track_has_are_refused_by_name(tmp_path: Path) -> None:
    fields = {name: {"kind": "label"} for name in ("genre", "artist", "album")}
    decoder = LANGUAGE_MODEL | {"cross": ("description", "clap", *fields)}
    config = recipe(tmp_path, model=recipe(tmp_path).model.model_dump() | {"language_model": decoder, "fields": fields})
    assert "expected artist, album in at least one track of the split train" in failing(tmp_path, config)
    held_out = [
        row | ({"artist": "Ada"} if row["split"] == "test" else {"album": "All"})
        for row in world()["tracks"].to_pylist()
    ]
    message = failing(tmp_path, config, tracks=pa.Table.from_pylist(held_out, schema=TRACKS.schema))
    assert "expected artist in at least one track" in message
    assert "got none in 16 tracks" in message


def test_a_melody_too_short_to_be_added_frame_by_frame_is_refused(tmp_path: Path) -> None:
    decoder = LANGUAGE_MODEL | {"prepend": (), "sum": ("chroma",)}
    frame_wise = {"frames": 49, "frame_rate": FRAME_RATE}
    changes = {"language_model": decoder, "chroma": frame_wise}
    config = recipe(tmp_path, model=recipe(tmp_path).model.model_dump() | changes)
    assert "expected train.model.chroma.frames of 50 or more" in failing(tmp_path, config)
    changes["chroma"] = frame_wise | {"frames": 50}
    fits = recipe(tmp_path, model=config.model.model_dump() | changes, optimization={"steps": 2})
    assert train_in(tmp_path, fits)["kind"] == "language_model"
