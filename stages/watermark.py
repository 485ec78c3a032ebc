"""Watermarks: whether the mark in each clip can be detected, and what it did to the sound (AudioSeal,
arXiv:2401.17264).

`decode` adds the mark, where `decode.watermark` asks for one, to levelled sound before it signs the file. This stage
looks for the mark in the clip's file as it was written, in the forms that clips are usually converted to, and in the
clip before it was marked, where finding a mark would be a false alarm. What the mark did to the sound is measured on
the samples themselves, without a lossy format in between.

Detection rates hold for the networks that are named. Networks with random weights give rates too, but these mean
nothing.
"""

import io
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import soundfile

import schemas
from schemas import WeightsRef
from schemas.tables import CLIPS, GENERATIONS, REQUESTS, VERDICTS, WATERMARKS, Row
from schemas.weights import LocalWeights
from stages.audio import AudioFormat, Samples, encode_audio, measure_audio, normalise_loudness, resample
from stages.audio.writing import MP3_RATES
from stages.judging.tries import chosen_try
from stages.networks.published import ENCODEC_32KHZ
from stages.networks.watermarks import Watermark
from stages.pipeline.contract import Context, Dependencies, Shard

if TYPE_CHECKING:
    from stages.networks.audioseal import WatermarkDetector, WatermarkGenerator

READS, WRITES, VERSION = (CLIPS, VERDICTS, GENERATIONS, REQUESTS), WATERMARKS, 2

RATES = (44_100, 16_000)
"""Sample rates that clips are resampled to before the mark is looked for again, Hz: the rate that music is sold at, and
the networks' own, which leaves nothing above 8 kHz."""

FORM_UNMARKED, FORM_WRITTEN = "unmarked", "written"


class Config(schemas.Config):
    """Which watermark is looked for."""

    codec: WeightsRef = ENCODEC_32KHZ
    """The codec that the clips were decoded with; in a recipe it is `tokenize.codec` unless it is given."""
    loudness: float = -16.0
    """Loudness of the clips before their mark, LUFS; in a recipe it is `decode.loudness`."""
    true_peak: float = -1.0
    """Highest true peak of the clips, dBTP; in a recipe it is `decode.true_peak`."""
    max_gain: float = 30.0
    """Largest gain of a quiet clip, dB; in a recipe it is `decode.max_gain`."""
    mark: Watermark | None = None
    """The watermark that clips carry; in a recipe it is `decode.watermark`. The stage runs where there is a watermark
    that names a detector."""


def dependencies(config: Config, weights: Callable[[WeightsRef], LocalWeights]) -> Dependencies:
    """Return what the rows depend on: the whole configuration."""
    return Dependencies(config, ())


def shard(
    config: Config, context: Context, clips: pa.Table, verdicts: pa.Table, generations: pa.Table, requests: pa.Table
) -> Iterator[Shard]:
    """Look for the watermark in every clip, and yield its row.

    Raises:
        ValueError: no watermark is named, its networks cannot be loaded, or the codec is not the one of the codes.
        MissingWeights: weights cannot be fetched.
    """
    from stages.checkpoints.codecs import CodesFormat, borrow_codecs_of_rows, decode_generations
    from stages.networks.audioseal import load_watermark_detector, load_watermark_generator

    mark = config.mark
    if mark is None or mark.detector is None:
        raise ValueError("expected a decode.watermark with a detector, got none")
    generator = load_watermark_generator(
        context.weights(mark.generator).path, mark.message, mark.strength, context.device
    )
    detector = load_watermark_detector(context.weights(mark.detector).path, context.device)
    generation_of = {(row["request_id"], row["take"]): row for row in generations.to_pylist()}
    chosen = {
        (row["request_id"], row["take"]): chosen_try(row, generation_of[row["request_id"], row["take"]])
        for row in verdicts.to_pylist()
    }
    seconds_of = {row["request_id"]: row["seconds"] for row in requests.to_pylist()}
    rows = clips.to_pylist()
    generated = [chosen[row["request_id"], row["take"]] for row in rows]
    codecs = borrow_codecs_of_rows(generated, config.codec, context, "codec")
    context.progress.start("watermark", len(rows), "clips")
    seconds = [seconds_of[row["request_id"]] for row in rows]
    sounds = decode_generations(codecs, list(zip(generated, seconds, strict=True)))
    for clip, generation, sound in zip(rows, generated, sounds, strict=True):
        context.check_stopped()
        sample_rate = codecs[CodesFormat.from_row(generation)].sample_rate
        unmarked = _levelled(config, sound, sample_rate)
        row = _row(clip, context.store.read_bytes(clip["path"]), unmarked, sample_rate, generator, detector)
        if not row["watermark_found"]:
            context.remarks.add(
                "clips without a detectable watermark in their file",
                "decode.watermark",
                f"{clip['request_id']}/{clip['take']}",
            )
        context.progress.advance()
        yield Shard([row])


def _levelled(config: Config, sound: Samples, sample_rate: int) -> Samples:
    """Return a codec's sound as loud as `decode` made it before it was marked."""
    before = measure_audio(sound, sample_rate).loudness
    target = config.loudness if before is None else min(config.loudness, before + config.max_gain)
    return normalise_loudness(sound, sample_rate, target, config.true_peak)[0]


def _row(
    clip: Row,
    data: bytes,
    unmarked: Samples,
    sample_rate: int,
    generator: "WatermarkGenerator",
    detector: "WatermarkDetector",
) -> Row:
    """Look for the mark in a clip in every form, measure what the mark did to the sound, and return the row.

    Args:
        data: the clip's file.
        unmarked: the clip's sound before the mark.
        sample_rate: sample rate of `unmarked`, Hz.
    """
    detections: list[dict[str, Any]] = []
    for form, samples, rate in _forms(unmarked, data, sample_rate):
        detection = detector.detect(samples, rate)
        right = detection.bits_right(generator.message)
        detections.append({"form": form, "score": detection.score, "bits_right": right, "found": detection.found})
    return {
        "request_id": clip["request_id"],
        "take": clip["take"],
        "watermark_message": generator.message,
        "watermark_bits": len(detection.bits),
        "watermark_found": next(detection["found"] for detection in detections if detection["form"] == FORM_WRITTEN),
        "watermark_heard": detections,
    } | _damage(unmarked, unmarked + generator.mark(unmarked, sample_rate), sample_rate)


def _forms(unmarked: Samples, data: bytes, sample_rate: int) -> Iterator[tuple[str, Samples, int]]:
    """Yield the clip in each form: the form's name, the samples and their sample rate."""
    yield FORM_UNMARKED, unmarked, sample_rate
    written = _decoded(data)
    yield FORM_WRITTEN, *written
    samples, rate = np.clip(written[0], -1, 1), written[1]
    lossy: tuple[AudioFormat, ...] = ("mp3", "ogg") if rate in MP3_RATES else ("ogg",)
    for format in lossy:
        yield format, *_decoded(encode_audio(samples, rate, format))
    for other in RATES:
        yield f"{other} Hz", resample(samples, rate, other), other


def _decoded(data: bytes) -> tuple[Samples, int]:
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return samples.T, rate


def _damage(unmarked: Samples, marked: Samples, sample_rate: int) -> Row:
    """Measure what a mark did to a sound: the ratio of the sound to the mark, dB (SI-SNR, arXiv:1811.02508), and the
    change of loudness, LU."""
    import torch

    from model.codec.losses import si_snr

    ratio = float(si_snr(torch.from_numpy(marked), torch.from_numpy(unmarked)).mean())
    before, after = (measure_audio(each, sample_rate).loudness for each in (unmarked, marked))
    change = None if before is None or after is None else after - before
    return {"watermark_si_snr": ratio if math.isfinite(ratio) else None, "watermark_loudness": change}
