"""What keys and values in less precision cost a trained model: `python -m tests.benchmarks.cache_quality FOLDER`, where
FOLDER is a checkpoint of a store of the miniature (`models/<checkpoint_id>`).

Clips of several texts, keys and tempos are decoded greedily, with guidance 3. Told is the share of codes that are those
of float32 keys and values, where every step reads its own codes and so goes on from what differed before, and where
every step reads float32's.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import torch
from torch import Tensor

from model.conditioning.charts import parse_meter, steady_beats
from model.conditioning.frame_wise import beat_vectors, frame_times
from model.decoding import dynamic_shapes
from model.decoding.dynamic_shapes import DynamicShapeDecoder
from model.decoding.engine import decode
from model.decoding.generation import GenerationRequest, sequence_request
from model.decoding.sampling import SampledTokens, sample_tokens
from model.decoding.sequences import SequenceRequest
from model.guidance import condition_passes
from model.kernels.packed_linear import prepare_for_inference
from model.lm.config import CachePrecision
from model.music_model import Attributes, MusicModel
from stages.checkpoints.native import load_native_checkpoint
from tests.benchmarks.results import table

WORDS = ("calm piano", "fast drums and bass", "slow strings at night", "bright guitar", "dark synth", "warm organ")
KEYS = ("C major", "A minor", "G major", "E minor", "D major", "B minor")
GUIDANCE, BPM, FRAMES = 3.0, (80.0, 96.0, 112.0, 128.0, 140.0, 100.0), 300


def requests_of(model: MusicModel, frame_rate: float) -> list[GenerationRequest]:
    """One clip a text, with a key and steady beats."""
    config, requests = model.config, []
    for number, (words, key, bpm) in enumerate(zip(WORDS, KEYS, BPM, strict=True)):
        frames: dict[str, Any] = {}
        if config.beat is not None:
            beats = steady_beats(parse_meter("4/4"), bpm, FRAMES / frame_rate)
            times = frame_times(0, FRAMES, frame_rate)
            vectors = beat_vectors(beats.beats, beats.downbeats, times, config.beat)
            frames["beat"] = torch.from_numpy(vectors)
        fields = {name: value for name, value in (("key", key), ("bpm", bpm)) if name in config.fields}
        attributes = Attributes(words, fields=fields, **frames)
        requests.append(GenerationRequest(attributes, FRAMES, seed=number, guidance=GUIDANCE, temperature=0.0))
    return requests


@contextmanager
def recorded(codes: list[Tensor]) -> Iterator[None]:
    """Record every sample, whether or not a sequence uses it."""

    def sample(*given: Any) -> SampledTokens:
        sampled = sample_tokens(*given)
        codes.append(sampled.codes)
        return sampled

    with patch.object(dynamic_shapes, "sample_tokens", sample):
        yield


def greedy(
    model: MusicModel, sequences: Sequence[SequenceRequest], kept: CachePrecision
) -> tuple[Tensor, list[Tensor]]:
    """The samples, [S, B, K], and the sequences made from them."""
    sampled = list[Tensor]()
    decoder = DynamicShapeDecoder(
        prepare_for_inference(model.language_model, "float32"), sequences, len(sequences), kept
    )
    with torch.inference_mode(), recorded(sampled):
        finished = dict(decode(decoder, sequences, len(sequences)))
    return torch.stack(sampled), [finished[number] for number in range(len(sequences))]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    trained = load_native_checkpoint(folder, lambda reference: NotImplemented)
    model = trained.model
    sequences = []
    for request in requests_of(model, trained.facts.frame_rate):
        with torch.inference_mode():
            passes = condition_passes(
                model, request.attributes, request.guidance_form, request.guidance, request.guidance_text
            )
            sequences.append(sequence_request(model.language_model, request, passes))
    expected, plain = greedy(model, sequences, "float32")
    known = [replace(request, sequence=sequence) for request, sequence in zip(sequences, plain, strict=True)]
    rows = []
    for kept in get_args(CachePrecision):
        free, forced = (float((greedy(model, each, kept)[0] == expected).float().mean()) for each in (sequences, known))
        rows.append([kept, f"{free:.4f}", f"{forced:.4f}"])
    header = ("keys and values", "greedy codes as with float32, reading their own", "reading float32's")
    print(f"{len(sequences)} clips of {FRAMES} frames")
    print(table(header, rows))


if __name__ == "__main__":
    main()
