"""What holds for every kind of condition: nulls, batches, and stored values."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from model.chroma import chroma
from model.conditioning.config import CONDITIONS, ChromaConfig
from model.music_model import Attributes
from schemas.tables import CHROMA, CLAP, TRACKS
from tests.worlds.every_condition import ITEMS, config, embeddings, everything, music_model
from tests.worlds.oracles import read_pack
from tests.worlds.tiny_model import melody, random_codes


@pytest.mark.parametrize("quantized", [False, True])
def test_conditions_of_an_item_in_a_batch_equal_those_of_the_item_alone(quantized: bool) -> None:
    model = music_model(config(quantized))
    with torch.no_grad():
        together = model.condition(model.prepare(ITEMS))
        assert tuple(together) == ("description", "genre", "keywords", "bpm", "chroma", "clap")
        for row, item in enumerate(ITEMS):
            for name, alone in model.condition(model.prepare([item])).items():
                length = alone.mask.shape[1]
                found = together[name]
                torch.testing.assert_close(found.embedding[row, :length], alone.embedding[0], rtol=0, atol=1e-6)
                assert torch.equal(found.mask[row, :length], alone.mask[0])
                assert not found.embedding[row, length:].any()
                assert not found.mask[row, length:].any()


def test_the_prediction_for_an_item_in_a_batch_equals_that_for_the_item_alone() -> None:
    model, codes = music_model(), random_codes(len(ITEMS), 7, codebooks=2, cardinality=11)
    with torch.no_grad():
        together = model(codes, ITEMS).logits
        for row, item in enumerate(ITEMS):
            alone = model(codes[row : row + 1], [item]).logits[0]
            torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-5)


def test_only_missing_conditions_are_zeros_outside_the_mask() -> None:
    model = music_model()
    with torch.no_grad():
        found = model.condition(model.prepare(ITEMS))
    for name, condition in found.items():
        present = condition.embedding.abs().amax(-1) > 0
        assert torch.equal(present, condition.mask)
        assert condition.mask.any(-1).tolist() == [name in item.names for item in ITEMS]


def test_a_null_alone_is_one_masked_vector_as_in_the_oracle(oracles: Path) -> None:
    """With no vectors at all, a decoder would have nothing to attend to, and a prefix of length 0 would have no
    place."""
    facts = read_pack(oracles, "conditioning").facts["nulls"]["nullify_condition_B3_T9_D6_dim1"]
    model = music_model()
    with torch.no_grad():
        found = model.condition(model.prepare([Attributes()] * facts["cond_shape"][0]))
    for condition in found.values():
        assert list(condition.mask.shape) == facts["mask_shape"]
        assert not condition.mask.any()
        assert not condition.embedding.any()


@pytest.mark.parametrize("name", ["description", "genre", "keywords", "bpm", "chroma", "clap"])
def test_removing_any_condition_changes_the_prediction(name: str) -> None:
    model, codes, item = music_model(), random_codes(1, 7, codebooks=2, cardinality=11), everything()
    assert name in item.names
    with torch.no_grad():
        logits = model(codes.expand(2, -1, -1), [item, item.without([name])]).logits
    assert (logits[0] - logits[1]).abs().max() > 1e-5


@pytest.mark.parametrize("how", ["cross", "prepend", "interpolate"])
def test_every_condition_can_be_fused_in_every_way_that_takes_any_length(how: str) -> None:
    names = ("description", "genre", "keywords", "bpm", "chroma", "clap")
    model = music_model(config(**({"cross": ()} | {how: names})))
    codes = random_codes(len(ITEMS), 7, codebooks=2, cardinality=11)
    with torch.no_grad():
        logits = model(codes[:1].expand_as(codes), ITEMS).logits.flatten(1)
    assert torch.cdist(logits, logits)[~torch.eye(len(ITEMS), dtype=torch.bool)].min() > 1e-4


def test_conditions_of_one_length_can_be_summed_and_others_are_refused() -> None:
    summed = ("genre", "bpm", "chroma", "clap")
    rest = ("description", "keywords")
    model = music_model(config(match_length=True, cross=rest, sum=summed))
    codes = random_codes(len(ITEMS), 6, codebooks=2, cardinality=11)
    with torch.no_grad():
        logits = model(codes[:1].expand_as(codes), ITEMS).logits.flatten(1)
    assert torch.cdist(logits, logits)[~torch.eye(len(ITEMS), dtype=torch.bool)].min() > 1e-4
    for name in rest:
        with pytest.raises(
            ValidationError, match=f"expected conditions of fixed length in language_model\\.sum, got {name}"
        ):
            config(match_length=True, cross=tuple({*rest, *summed} - {name}), sum=(name,))


@pytest.mark.parametrize("changed", range(6))
def test_a_frame_of_a_summed_melody_first_changes_the_prediction_of_its_own_codes(changed: int) -> None:
    """At the codec's frame rate, `sum` gives each step the pitch of its frame."""
    rest = ("description", "genre", "keywords", "bpm", "clap")
    model = music_model(config(match_length=True, cross=rest, sum=("chroma",)))
    pitches = [0, 4, 7, 0, 4, 7]
    other = [*pitches[:changed], 11, *pitches[changed + 1 :]]
    codes = random_codes(1, 6, codebooks=2, cardinality=11).expand(2, -1, -1)
    with torch.no_grad():
        found = model(codes, [Attributes(chroma=melody(*pitches)), Attributes(chroma=melody(*other))])
    differs = (found.logits[0] - found.logits[1]).abs().amax(-1) > 1e-6
    first = [row.nonzero()[0, 0].item() if row.any() else 6 for row in differs & found.mask[0]]
    # The second codebook is delayed by one step, so its codes are predicted when the next frame's pitch is known too;
    # its last frame has no prediction.
    assert first == [changed, max(0, changed - 1)]


def test_conditions_read_from_tables_equal_those_computed_live(tmp_path: Path) -> None:
    """A recording's conditions, computed here and read from rows of the tables that store them."""
    wav = torch.randn(1, 60_000, generator=torch.Generator().manual_seed(4))
    melody, embedding = chroma(wav, ChromaConfig(window=4096, hop=2048))[0], embeddings(1)[0]
    live = Attributes(
        "calm piano", melody, embedding, {"genre": "Jazz", "keywords": "slow, café", "bpm": 97.3, "seconds": 1.875}
    )
    rows = {
        TRACKS: {
            "track_id": "a", "description": "calm piano", "genre": "Jazz", "keywords": ["slow", "café"],
            "bpm": 97.3, "seconds": 1.875,
        },
        CHROMA: {"track_id": "a", "frame_rate": 15.625, "chroma": melody.tolist()},
        CLAP: {"track_id": "a", "starts": [0.0], "embeddings": [embedding.tolist()]},
    }  # fmt: skip
    stored = {}
    for table, row in rows.items():
        whole = {name: None for name in table.schema.names} | row
        pq.write_table(pa.Table.from_pylist([whole], schema=table.schema), tmp_path / "row.parquet")
        stored[table] = pq.read_table(tmp_path / "row.parquet").to_pylist()[0]
    track = stored[TRACKS]
    cached = Attributes(
        track["description"],
        torch.from_numpy(np.array(stored[CHROMA]["chroma"], dtype=np.float32)),
        torch.from_numpy(np.array(stored[CLAP]["embeddings"][0], dtype=np.float32)),
        {"genre": track["genre"], "keywords": ", ".join(track["keywords"]), "bpm": track["bpm"], "seconds": 1.875},
    )
    settings = config().model_dump()
    settings["fields"]["seconds"] = {"kind": "number", "lowest": 0.0, "highest": 512.0}
    settings["language_model"]["cross"] = (*settings["language_model"]["cross"], "seconds")
    settings["chroma"]["one_hot"] = False
    model = music_model(type(config()).model_validate(settings))
    with torch.no_grad():
        expected, found = (model.condition(model.prepare([item])) for item in (live, cached))
    assert tuple(found) == ("description", "genre", "keywords", "bpm", "seconds", "chroma", "clap")
    for name, condition in found.items():
        assert torch.equal(condition.embedding, expected[name].embedding), name
        assert torch.equal(condition.mask, expected[name].mask), name
        assert condition.mask.all(), name
    assert set(found) < set(CONDITIONS)
