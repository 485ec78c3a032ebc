"""MusicGen of transformers and this project's are the same model: read, written and read again, they compute the
same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.codec.codec import Codec, codebook_identity
from model.decoding.generation import GenerationRequest, generate
from model.lm.positions import position_table
from model.music_model import Attributes, MusicModel
from stages.checkpoints.huggingface.checkpoint import read_hugging_face, write_hugging_face
from stages.checkpoints.native import TrainedModel
from tests.worlds.hugging_face_models import (
    CHROMA_FRAMES,
    SEGMENT_FRAMES,
    SHAPES,
    Shape,
    encoded,
    greedy_codes,
    load,
    logits_of,
    random_musicgen,
    save,
)
from tests.worlds.tiny_codec import HOP
from tests.worlds.tiny_model import melody, random_codes

DESCRIPTIONS = ["calm piano at night", "drums", "loud fast bass with strings and drums in C minor"]
MELODIES = [melody(0, 4, 7), melody(*range(12)), None]
FRAMES = 10


def attributes(shape: Shape) -> list[Attributes]:
    melodies = MELODIES if shape.melody else [None] * len(DESCRIPTIONS)
    return [Attributes(text, chroma) for text, chroma in zip(DESCRIPTIONS, melodies, strict=True)]


def check_logits(theirs: Any, ours: MusicModel, shape: Shape) -> None:
    """Batches of different descriptions agree; with melodies, each row agrees (see `rows_of`)."""
    codes = random_codes(len(DESCRIPTIONS), 9, 3, shape.codebooks, shape.cardinality)
    for rows in rows_of(shape):
        items = [attributes(shape)[row] for row in rows]
        with torch.no_grad():
            found = ours(codes[rows], items)
        texts = [item.description or "" for item in items]
        wanted = logits_of(theirs, ours, codes[rows], texts, chroma_of(items[0]))
        mine = torch.where(found.mask[..., None], found.logits, 0.0)
        assert found.mask.any()
        assert (mine - wanted).abs().max() < 1e-5


def check_greedy(theirs: Any, ours: MusicModel, shape: Shape) -> list[Tensor]:
    """Greedy codes with guidance 3 are exactly equal; returns ours."""
    requests = [GenerationRequest(item, FRAMES, seed=0, temperature=0.0) for item in attributes(shape)]
    mine = generate(ours, requests)
    for rows in rows_of(shape):
        items = [attributes(shape)[row] for row in rows]
        wanted = greedy_codes(theirs, shape, FRAMES, [item.description or "" for item in items], chroma_of(items[0]))
        assert torch.equal(torch.stack([mine[row] for row in rows]), wanted)
    assert len({tuple(codes.flatten().tolist()) for codes in mine}) == len(mine), "the conditions are heard"
    return mine


def rows_of(shape: Shape) -> list[list[int]]:
    """The rows that are compared in one batch.

    Cross-attention masks padded text in both, so a row of a batch equals the row alone. Before the codes, transformers
    leaves the padding of shorter descriptions as zeros that are attended to and that move the positions of the codes. A
    row of its batch then differs from the row alone, which is what this project generates, so rows are compared one by
    one.
    """
    numbers = list(range(len(DESCRIPTIONS)))
    return [[number] for number in numbers] if shape.melody else [numbers]


def chroma_of(item: Attributes) -> Tensor | None:
    return None if item.chroma is None else item.chroma[None]


def exported(trained: TrainedModel, folder: Path) -> Path:
    folder.mkdir()
    write_hugging_face(trained, folder)
    return folder


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    state, others = first.state_dict(), second.state_dict()
    return state.keys() == others.keys() and all(torch.equal(state[name], others[name]) for name in state)


def decoder_of(theirs: Any) -> dict:
    """The decoder's configuration, except what concerns training and files."""
    left_out = {"dropout", "dtype", "decoder_start_token_id"}
    return {name: value for name, value in theirs.config.decoder.to_dict().items() if name not in left_out}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_model_of_transformers_gives_the_same_logits_and_greedy_codes_here(shape: Shape, tmp_path: Path) -> None:
    theirs = random_musicgen(shape)
    read = read_hugging_face(save(theirs, shape, tmp_path))
    check_logits(theirs, read.model, shape)
    codes = check_greedy(theirs, read.model, shape)
    assert read.codec is not None
    if not shape.stereo:
        sound = theirs.audio_encoder.decode(codes[0][None, None], [None]).audio_values
        assert (Codec(read.codec).decode(codes[0][None]) - sound).abs().max() < 1e-5
    assert not read.model.training
    assert not any(value.is_meta for value in read.model.state_dict().values())


@pytest.mark.parametrize("name", ["mono", "stereo"])
def test_a_recording_is_continued_like_in_transformers(name: str, tmp_path: Path) -> None:
    shape = SHAPES[name]
    theirs = random_musicgen(shape)
    read = read_hugging_face(save(theirs, shape, tmp_path))
    assert read.codec is not None
    wav = torch.randn(1, 2 if shape.stereo else 1, 4 * HOP, generator=torch.Generator().manual_seed(0))
    codec = Codec(read.codec)
    prompt = torch.stack([codec.encode(side)[0] for side in wav[0, :, None, None]], dim=1).flatten(0, 1)
    request = GenerationRequest(Attributes(DESCRIPTIONS[0]), FRAMES, seed=0, temperature=0.0, prompt=prompt)
    wanted = greedy_codes(theirs, shape, FRAMES, DESCRIPTIONS[:1], prompt=wav)
    assert torch.equal(generate(read.model, [request])[0], wanted[0])
    assert torch.equal(wanted[0, :, :4], prompt)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_model_read_written_and_read_again_is_unchanged_and_agrees_with_transformers(
    shape: Shape, tmp_path: Path
) -> None:
    theirs = random_musicgen(shape, seed=1)
    first = read_hugging_face(save(theirs, shape, tmp_path / "theirs"))
    second = read_hugging_face(exported(first, tmp_path / "ours"))
    assert first.codec is not None
    assert second.codec is not None
    assert same(first.model, second.model)
    assert same(first.codec, second.codec)
    assert first.facts == second.facts
    again = load(tmp_path / "ours")
    assert same(theirs, again)
    assert decoder_of(again) == decoder_of(theirs)
    check_logits(again, first.model, shape)
    check_greedy(again, first.model, shape)


def test_the_facts_agree_with_the_folder(tmp_path: Path) -> None:
    shape = SHAPES["stereo melody"]
    theirs = random_musicgen(shape)
    facts = read_hugging_face(save(theirs, shape, tmp_path)).facts
    assert (facts.frame_rate, facts.segment_seconds) == (25.0, SEGMENT_FRAMES / 25)
    assert (facts.text_encoder, facts.text_encoder_digest, dict(facts.versions)) == (None, None, {})
    assert facts.codec is not None
    assert facts.codec.identity == codebook_identity(theirs.audio_encoder, 3)
    assert (facts.codec.codebooks, facts.codec.channels, facts.codec.cardinality) == (6, 2, 64)
    assert facts.model.language_model.codebook_delays == (0, 0, 1, 1, 2, 2)
    assert facts.model.chroma is not None
    assert (facts.model.chroma.frames, facts.model.chroma.null) == (CHROMA_FRAMES, "first_bin")
    assert facts.model.language_model.dropout == 0.0


def test_sinusoids_equal_those_of_transformers(tmp_path: Path) -> None:
    theirs = random_musicgen(SHAPES["mono"])
    table = theirs.decoder.model.decoder.embed_positions.weights
    mine = position_table(len(table), table.shape[1], 10_000.0, table.device)
    assert (mine[:64] - table[:64]).abs().max() < 1e-5
    # Far away the phase is large, so its last bits differ.
    assert (mine - table).abs().max() < 1e-3


def test_an_exported_model_has_the_same_training_loss_in_transformers(tmp_path: Path) -> None:
    shape = SHAPES["mono"]
    read = read_hugging_face(save(random_musicgen(shape), shape, tmp_path / "theirs"))
    theirs = load(exported(read, tmp_path / "ours"))
    codes = random_codes(3, 9, 3, shape.codebooks, shape.cardinality)
    sequence = read.model.language_model.pattern(9).build(codes, shape.cardinality, "valid")
    with torch.no_grad():
        found = theirs(**encoded(DESCRIPTIONS), labels=sequence[:, :, 1:].transpose(1, 2))
        wanted = read.model.loss(codes, attributes(shape))
    assert abs(float(found.loss) - float(wanted.mean)) < 1e-5


def test_a_codec_with_more_codebooks_than_the_model_encodes_prompts_with_the_models_number(tmp_path: Path) -> None:
    shape = SHAPES["mono"]
    theirs = random_musicgen(shape)
    first = read_hugging_face(save(theirs, shape, tmp_path / "theirs"))
    wide = random_musicgen(replace(shape, codebooks=6)).audio_encoder
    facts = first.facts.model_copy(update={"codec": None})
    again = load(exported(replace(first, facts=facts, codec=wide), tmp_path / "ours"))
    wav = torch.randn(1, 1, 3200)
    assert again.audio_encoder.encode(wav).audio_codes.shape == (1, 1, 4, 10)
    read = read_hugging_face(tmp_path / "ours")
    assert read.codec is not None
    assert same(read.codec, wide)
    assert torch.equal(Codec(read.codec, codebooks=4).encode(wav), again.audio_encoder.encode(wav).audio_codes[0])
