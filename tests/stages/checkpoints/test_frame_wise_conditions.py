"""Checkpoints of models that read beat and chords: kept in this project's form, refused by forms that have neither."""

from pathlib import Path

import pytest
import torch

from stages.checkpoints.audiocraft.conditioners import conditioner_names
from stages.checkpoints.facts import CheckpointFacts
from stages.checkpoints.huggingface.configuration import config_to_hugging_face
from stages.checkpoints.native import load_native_checkpoint, save_checkpoint
from tests.worlds.beats_and_chords import config, item, music_model
from tests.worlds.small_codecs import small_encodec
from tests.worlds.tiny_model import random_codes, text_encoder


def test_a_saved_checkpoint_is_loaded_with_beat_and_chords(tmp_path: Path) -> None:
    model, codes = music_model(), random_codes(1, 7)
    facts = CheckpointFacts(
        model=config(), frame_rate=10.0, segment_seconds=2.0, text_encoder=None, text_encoder_digest=None
    )
    save_checkpoint(tmp_path, model, facts, None)
    again = load_native_checkpoint(tmp_path, lambda reference: pytest.fail(str(reference)))
    assert again.facts == facts
    with torch.no_grad():
        assert torch.equal(model(codes, [item()]).logits, again.model(codes, [item()]).logits)


def test_forms_without_such_a_condition_refuse_it() -> None:
    with pytest.raises(ValueError, match="expected conditions that AudioCraft's MusicGen has, got beat, chords"):
        conditioner_names(config())
    with pytest.raises(ValueError, match="got one that reads beat, chords"):
        config_to_hugging_face(config(), text_encoder().config, small_encodec())
