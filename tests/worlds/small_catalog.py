"""A store with everything that a report reads: real audio files, and rows as the other stages write them."""

import hashlib
import random
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from schemas import Settings, Store
from schemas.storage.versions import record_version
from schemas.tables import (
    CHECKPOINTS,
    CLIPS,
    CONTROLS,
    GENERATIONS,
    MEASURES,
    NEAREST,
    ORIGINALITY,
    RECONSTRUCTIONS,
    REQUESTS,
    SCORES,
    TRACKS,
    TRAINING,
    VERDICTS,
    Table,
)
from schemas.weights import WeightsLibrary
from stages.audio import encode_audio
from stages.pipeline.contract import Context

VERSION = "0123456789abcdef"
CHECKPOINT = "feedc0ffee123456"
CODEC = "c0dec00000000001"
CODEC_METRICS = {
    **{
        "valid_si_snr": 7.0,
        "valid_log_mel_distance": 5.0,
        "valid_multi_scale_mel_distance": 6.1,
        "valid_bit_rate": 1.6,
    },
    **{"valid_si_snr_untrained": -44.0, "valid_log_mel_distance_untrained": 25.0, "valid_bit_rate_untrained": 1.6},
    **{"valid_si_snr_scalar": 0.75, "valid_log_mel_distance_scalar": 38.0, "valid_bit_rate_scalar": 1.59},
    **{"valid_codebook_1_used": 0.96, "valid_codebook_1_perplexity": 170.25},
    **{"valid_codebook_2_used": 0.53, "valid_codebook_2_perplexity": 61.0},
    **{"train_si_snr": 7.5, "train_log_mel_distance": 4.5, "train_bit_rate": 1.6},
}
SHOWN = (CLIPS, VERDICTS, GENERATIONS, SCORES, CONTROLS, MEASURES, NEAREST, ORIGINALITY, REQUESTS, TRACKS)
"""The tables of which the report reads one version."""

TITLES = ("Silver Window", "Quiet River", "Paper Garden", "Salt Harbour", "Hollow Engine", "Amber Tide")


def melody_clip(seed: int, seconds: float = 4.0, sample_rate: int = 16_000) -> np.ndarray:
    """A few decaying notes with overtones: float32 [1, N]."""
    draw, time = random.Random(seed), np.arange(round(seconds * sample_rate)) / sample_rate
    sound = 0.004 * np.random.default_rng(seed).standard_normal(len(time))
    for note in range(round(seconds * 3)):
        start, hertz = note / 3, 220 * 2 ** (draw.choice((0, 2, 3, 5, 7, 10, 12, 15)) / 12)
        after = np.maximum(time - start, 0)
        for harmonic in (1, 2, 3, 4):
            sound += (
                (time >= start)
                * np.exp(-4 * harmonic**0.5 * after)
                * np.sin(6.2832 * harmonic * hertz * after)
                / harmonic
            )
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)[None]


def request_row(number: int, **given: object) -> dict:
    """A row of `requests`."""
    row = {
        "request_id": hashlib.sha256(f"request {number}".encode()).hexdigest(),
        "name": f"demo-{number}",
        "line": number + 2,
        "description": f"A calm ambient piece with bells, number {number}",
        "melody": f"track:{track_id(number)}" if number % 2 else None,
        "clap": None,
        "prompt": None,
        "prompt_seconds": None,
        "seconds": 4.0,
        "takes": 1,
        "seed": number,
        "guidance": 3.0,
        "temperature": 1.0,
        "top_k": 250,
        "top_p": 0.0,
        "bpm": 92.0 if number % 3 == 0 else None,
        "key": "A minor" if number % 3 == 0 else None,
        "title": f"{TITLES[number % len(TITLES)]} {number}",
        "shard": number // 64,
    }
    return row | given


def chord(start: float, end: float, root: int, quality: str = "maj") -> dict:
    """A chord in the form of `scores`."""
    return {"start": start, "end": end, "root": root, "quality": quality, "bass": root, "confidence": 1.0}


def measure_row(measure: str, sounds: str, value: float | None, n: int = 100, **given: object) -> dict:
    """A row of `measures`, for a share unless another unit is given."""
    row = {"measure": measure, "sounds": sounds, "checkpoint_id": CHECKPOINT, "n": n, "value": value, "unit": "share"}
    bounds = {} if value is None else {"low": max(0.0, value - 0.1), "high": min(1.0, value + 0.1)}
    return row | bounds | {"note": ""} | given


MEASURED = [
    *(
        measure_row(name, sounds, value)
        for name in ("chroma_similarity", "key_correct")
        for sounds, value in (("clips", 0.6), ("chance", 0.1), ("untrained", 0.1), ("codec", 0.75), ("raw", 0.9))
    ),
    measure_row("seconds_correct", "clips", 0.99, successes=99),
    measure_row("centroid", "clips", 894.2, unit="Hz", low=850.0, high=950.0),
    measure_row("mel_fd", "clips", None, 26, unit="distance", note="refused: expected at least 64 sounds"),
]
"""Rows of a score card."""


def track_id(number: int) -> str:
    return hashlib.sha256(f"track {number % 7}".encode()).hexdigest()


def small_catalog(folder: str, requests: list[dict], distinct: int = 6, shared: bool = False) -> Context:
    """A store in `folder` with the clips of each request (sharing `distinct` sounds), and the report's context.

    Args:
        shared: clips of the same sound share its file, so that thousands of clips are a few files.
    """
    store = Store(folder)
    sounds = [encode_audio(melody_clip(seed), 16_000, "flac", {}) for seed in range(distinct)]
    clips, generations, scores, nearest, controls = [], [], [], [], []
    written: set[str] = set()
    for number, (request, take) in enumerate((each, take) for each in requests for take in range(1, each["takes"] + 1)):
        data, key = sounds[number % distinct], {"request_id": request["request_id"], "take": take}
        name = f"sound-{number % distinct}" if shared else f"{request['request_id']}-{take}"
        path = f"audio/version={VERSION}/{name}.flac"
        if path not in written:
            store.write_bytes(path, data)
            written.add(path)
        draw = random.Random(number)
        clips.append(
            key
            | {"checkpoint_id": CHECKPOINT, "path": path, "format": "flac", "sample_rate": 16_000, "channels": 1}
            | {"seconds": 4.0, "loudness": -16.0 - draw.random(), "true_peak": -1.5, "silence": 0.0, "clipping": 0.0}
            | {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        )
        generations.append(key | {"checkpoint_id": CHECKPOINT, "seed": request["seed"], "frames": 200})
        score = key | {"seconds_asked": request["seconds"], "seconds": 4.0, "silence": 0.0, "clipping": 0.0}
        if request["melody"]:
            score["chroma_similarity"] = draw.uniform(0.3, 0.7)
            score["chroma_similarity_chance"] = draw.uniform(0.08, 0.16)
            score["chroma_similarity_ceiling"] = draw.uniform(0.8, 0.95)
            if number < 40:
                item = {"sounds": "untrained", "item": f"{request['request_id']}/{take}", "checkpoint_id": CHECKPOINT}
                controls.append(key | item | {"chroma_similarity": draw.uniform(0.05, 0.2)})
                controls[-1] |= {"path": path, "sha256": hashlib.sha256(data).hexdigest()}
        if request["key"]:
            right = draw.random() < 0.5
            score |= {"key_asked": request["key"], "key": "A minor" if right else "C major", "key_correct": right}
        if request["bpm"]:
            score |= {"bpm_asked": request["bpm"], "bpm": 92.4, "bpm_correct": True}
            score |= {"beats_asked": [0.0, 0.65, 1.3, 1.96], "beats": [0.02, 0.66, 1.31, 1.95], "beat_f_measure": 1.0}
            score |= {"chords_asked": [chord(0, 2, 9, "min"), chord(2, 4, 5)], "chord_accuracy": 0.5}
            score |= {"chords": [chord(0, 2.1, 9, "min7"), chord(2.1, 4, -1, "N")]}
        scores.append(score | {"clap_similarity": draw.random()})
        nearest.append(key | {"nearest_track": track_id(number), "nearest_similarity": 0.6})
    tracks = [
        {
            "track_id": track_id(number),
            "title": f"{TITLES[number % 6]} (source)",
            "artist": "Otter & Vale",
            "seconds": 10.0,
        }
        | {"split": "train"}
        for number in range(7)
    ]
    metrics = {
        "valid_cross_entropy": 3.1,
        "valid_cross_entropy_unconditional": 3.4,
        "valid_cross_entropy_shuffled": 3.7,
    }
    metrics |= {"valid_cross_entropy_unigram": 4.6, "uniform_cross_entropy": 5.545}
    checkpoint = {"checkpoint_id": CHECKPOINT, "kind": "language_model", "path": f"models/{CHECKPOINT}", "steps": 800}
    checkpoint |= {
        "recipe": VERSION,
        "data_digest": "da7ada7ada7ada7a",
        "digest": "0" * 64,
        "metrics": list(metrics.items()),
    }
    checkpoint |= {
        "parameters": 4_100_000,
        "rows_seen": 96,
        "parents": [],
        "created_at": datetime(2026, 1, 2, tzinfo=UTC),
    }
    training = [
        {
            "checkpoint_id": CHECKPOINT,
            "step": step,
            "split": split,
            "loss": 5.5 * 0.5 ** (step / 600) + off + 0.05 * (step % 3),
        }
        | {"codebook_loss": [5.5 * (0.4 + 0.1 * k) ** (step / 600) + off for k in range(4)], "learning_rate": 1e-3}
        for split, off in (("train", 0.0), ("valid", 0.2))
        for step in range(0, 801, 10 if split == "train" else 100)
    ]
    verdicts = [
        {name: row[name] for name in ("request_id", "take", "checkpoint_id")}
        | {"retake": 0, "passed": True, "reasons": [], "tries": [{"reasons": []}]}
        for row in generations
    ]
    for table, rows in (
        (VERDICTS, verdicts),
        *((CLIPS, clips), (GENERATIONS, generations), (SCORES, scores), (REQUESTS, requests), (TRACKS, tracks)),
        *(
            (CONTROLS, controls),
            (MEASURES, MEASURED),
            (NEAREST, nearest),
            (CHECKPOINTS, [checkpoint]),
            (TRAINING, training),
        ),
    ):
        write(store, table, rows)
    versions = {table.name: VERSION for table in SHOWN}
    settings = Settings(store=folder, device="cpu")
    return Context(
        store, settings, "run", "report", VERSION, versions, WeightsLibrary(store), identity="report-identity"
    )


EARLIER = "ea711e70ea711e70"
"""Another version of the clips, and of the checkpoint that made them."""


def add_earlier_clips(context: Context, requests: list[dict]) -> None:
    """Put the clips of another checkpoint into the store, made from the same requests and seeds, as an earlier run
    would have left them."""
    store, clips, generations, scores = context.store, [], [], []
    for number, request in enumerate(requests):
        key = {"request_id": request["request_id"], "take": 1}
        data = encode_audio(melody_clip(200 + number % 3), 16_000, "flac", {})
        path = f"audio/version={EARLIER}/{request['request_id']}-1.flac"
        store.write_bytes(path, data)
        clip = {"checkpoint_id": EARLIER, "path": path, "format": "flac", "sample_rate": 16_000, "channels": 1}
        clips.append(key | clip | {"seconds": 4.0, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)})
        generations.append(key | {"checkpoint_id": EARLIER, "seed": request["seed"]})
        scores.append(key | {"seconds_asked": 4.0, "seconds": 4.0, "clap_similarity": 0.25, "chroma_similarity": 0.2})
    # Each table has a version of its own, as in a store: `versions` says what was made from what.
    of_generations, of_scores = "9e9e9e9e9e9e9e9e", "5c07ed5c07ed5c07"
    made = ((CLIPS, EARLIER, clips), (GENERATIONS, of_generations, generations), (SCORES, of_scores, scores))
    for table, version, rows in made:
        store.write_shard(table, version, "0", pa.Table.from_pylist(rows, schema=table.schema), input_key="a test")
    record_version(store, EARLIER, "decode", 1, "{}", {GENERATIONS.name: of_generations})
    record_version(store, of_scores, "evaluate", 1, "{}", {CLIPS.name: EARLIER, GENERATIONS.name: of_generations})


def add_codec(context: Context, reconstructions: int = 2, metrics: dict[str, float] | None = None) -> dict:
    """Put a trained codec into the store, with sound files before and after it; return its row of `checkpoints`."""
    store, rows = context.store, []
    for number in range(1, reconstructions + 1):
        row = {"checkpoint_id": CODEC, "number": number, "track_id": track_id(number), "sample_rate": 16_000}
        row |= {"channels": 1, "seconds": 4.0, "si_snr": 6.5, "log_mel_distance": 5.25, "multi_scale_mel_distance": 6.0}
        sound = melody_clip(100 + number)
        noise = 0.02 * np.random.default_rng(number).standard_normal(sound.shape).astype(np.float32)
        for name, samples in (("original", sound), ("decoded", sound + noise)):
            data = encode_audio(samples, 16_000, "flac", {})
            row |= {name: f"audio/checkpoint={CODEC}/{number}-{name}.flac"}
            row |= {f"{name}_sha256": hashlib.sha256(data).hexdigest()}
            store.write_bytes(row[name], data)
        rows.append(row)
    codec = {"checkpoint_id": CODEC, "kind": "codec", "path": f"models/{CODEC}", "steps": 900, "recipe": VERSION}
    codec |= {"data_digest": "da7a", "digest": "1" * 64, "parameters": 1_500_000, "rows_seen": 96, "parents": []}
    codec |= {"metrics": list((CODEC_METRICS if metrics is None else metrics).items())}
    codec |= {"created_at": datetime(2026, 1, 1, tzinfo=UTC)}
    for table, new in ((CHECKPOINTS, [codec]), (RECONSTRUCTIONS, rows)):
        store.write_shard(table, CODEC, "0", pa.Table.from_pylist(new, schema=table.schema), input_key="made by a test")
    return codec


def write(store: Store, table: Table, rows: list[dict]) -> None:
    store.write_shard(table, VERSION, "0", pa.Table.from_pylist(rows, schema=table.schema), input_key="made by a test")
