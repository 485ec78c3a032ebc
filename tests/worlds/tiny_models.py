"""A small text encoder, and tables of a small world whose codes depend on text, melody and joint embedding."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from schemas.tables import CHROMA, CLAP, HARMONY, RHYTHM, TOKENS, TRACKS

WORDS = [
    *("slow", "fast", "bright", "dark", "jazz", "rock", "piano", "guitar"),
    *("a", "an", "with", "and", "in", "key", "genre", "bpm", ":", ".", ","),
]
CODEBOOKS, CARDINALITY, FRAME_RATE, CHROMA_RATE = 2, 12, 25.0, 7.8125


def text_encoder(folder: Path) -> Path:
    """A T5 encoder of random weights with a word tokenizer, in the files that transformers reads."""
    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )
    fast.save_pretrained(folder)
    torch.manual_seed(5)
    config = T5Config(
        vocab_size=len(vocabulary),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        pad_token_id=0,
        eos_token_id=1,
    )
    T5EncoderModel(config).save_pretrained(folder)
    return folder


def world(tracks: int = 24, seconds: float = 4.0, seed: int = 3) -> dict[str, pa.Table]:
    """Tables of tracks whose codes are known functions of the conditions, with a little noise.

    Codebook 0 is the pitch class of the melody at the frame; codebook 1 is the sum of a number that depends on the
    description (0, 3, 6 or 9) and one that depends on the embedding (0 or 1), and is the same in every frame.
    """
    random = np.random.default_rng(seed)
    frames, chroma_frames = int(seconds * FRAME_RATE), int(seconds * CHROMA_RATE) + 1
    rows: dict[str, list[dict]] = {"tracks": [], "chroma": [], "clap": [], "tokens": []}
    for number in range(tracks):
        track_id = f"{number:04d}"
        text, side = int(random.integers(4)), int(random.integers(2))
        melody = np.repeat(random.integers(12, size=chroma_frames), 6)[:chroma_frames]
        chroma = np.eye(12, dtype=np.float32)[melody]
        places = np.minimum(np.rint(np.arange(frames) / FRAME_RATE * CHROMA_RATE).astype(int), chroma_frames - 1)
        codes = np.stack([melody[places], np.full(frames, 3 * text + side)])
        noise = random.random(codes.shape) < 0.05
        codes = np.where(noise, random.integers(CARDINALITY, size=codes.shape), codes).astype(np.uint16)
        split = {0: "valid", 1: "test"}.get(number % 6, "train")
        description = f"{['slow', 'fast'][text // 2]} {['jazz', 'rock'][text % 2]} piano"
        rows["tracks"].append(
            {"track_id": track_id, "split": split, "description": description, "genre": "jazz", "moods": ["dark"]}
        )
        rows["chroma"].append({"track_id": track_id, "frame_rate": CHROMA_RATE, "chroma": list(chroma)})
        embedding = np.array([side, 1 - side, 0.5], dtype=np.float32)
        rows["clap"].append({"track_id": track_id, "starts": [0.0], "embeddings": [embedding]})
        rows["tokens"].append(
            {"track_id": track_id, "frame_rate": FRAME_RATE, "cardinality": CARDINALITY, "frames": frames}
            | {"codes": list(codes)}
        )
    tables = (TRACKS, CHROMA, RHYTHM, HARMONY, CLAP, TOKENS)
    return {table.name: pa.Table.from_pylist(rows.get(table.name, []), schema=table.schema) for table in tables}
