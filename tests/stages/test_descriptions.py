"""The stage `descriptions`: embeddings of the descriptions of tracks, in one space with sounds."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from schemas import WeightsRef
from schemas.tables import TRACKS
from stages import descriptions
from stages.networks.clap import load_joint_embedder
from tests.worlds.parts import put_together
from tests.worlds.tiny_clap import clap_folder
from tests.worlds.world_of_sound import make_context

TOLD = ["calm piano", None, "fast drums", ""]


@pytest.fixture(scope="module")
def clap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clap_folder(tmp_path_factory.mktemp("clap"), 16)


def tracks() -> pa.Table:
    rows = [{"track_id": f"t{number}", "description": text} for number, text in enumerate(TOLD)]
    return pa.Table.from_pylist(rows, schema=TRACKS.schema)


def test_each_track_has_a_row_with_the_embedding_of_its_description_if_any(clap: Path, tmp_path: Path) -> None:
    config = descriptions.Config(model=WeightsRef(str(clap)), vocabulary=None)
    made = put_together(descriptions.shard(config, make_context(tmp_path), tracks()))
    assert [(row["track_id"], row["description"]) for row in made.rows] == [
        (f"t{number}", text) for number, text in enumerate(TOLD)
    ]
    expected = load_joint_embedder(clap).embed_text([TOLD[0], TOLD[2]])
    embedded = [row["description_embedding"] for row in made.rows if row.get("description_embedding") is not None]
    assert np.array_equal(np.stack(embedded), expected)
    assert np.linalg.norm(expected, axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert not np.allclose(*expected, atol=1e-3)


def test_without_a_model_the_stage_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected descriptions\.model to embed descriptions with, got none"):
        list(descriptions.shard(descriptions.Config(model=None), make_context(tmp_path), tracks()))
