"""Clips: generated codes through the codec's decoder to audio files, at one loudness and never clipped.

Of a take that was made again the codes are those of the try that the gate chose, and its seed is the clip's. A take
that never passed is a file as well, whose row has the reasons: no view of clips shows it.

Every clip is decoded as it would be alone, so its file depends on its codes and nothing else; where the gate has just
done so, its samples are taken (`stages.checkpoints.decoded`), and no codec is loaded. Loudness and peaks are measured
twice: of what the codec gave, and of what a player will hear, which is the finished file decoded again. A lossy format
can come back above the limit that its samples kept; such a clip is turned down and encoded again.

Samples are rounded to 16 or 24 bits without dither: a codec's own noise lies far above the rounding even of
16 bits, so dither would change nothing that can be heard.

Where a watermark is asked for, it is added to the levelled sound, after which only peaks are brought down.

Where content credentials are asked for, a file is signed when all else is done. Its samples do not change; its bytes do
with each signing, which is random.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from pydantic import Field, model_validator

import schemas
from schemas import WeightsRef
from schemas.tables import CLIPS, GENERATIONS, REQUESTS, VERDICTS, Row
from schemas.weights import LocalWeights
from stages.audio import AudioFormat, AudioMeasures, Samples, SourceType, measure_audio
from stages.audio.clip_tags import clip_tags
from stages.audio.credentials import (
    DEVELOPMENT,
    FORMATS,
    Credentials,
    Generation,
    Signer,
    identified_credentials,
)
from stages.audio.levelling import encode_at_level
from stages.audio.marks import CREDENTIALS_TAG, WATERMARK_TAG
from stages.judging.tries import chosen_try
from stages.networks.published import ENCODEC_32KHZ
from stages.networks.watermarks import Watermark, watermark_words
from stages.pipeline.contract import Context, Dependencies, Reject, Shard

if TYPE_CHECKING:
    from stages.checkpoints.codecs import AnyCodec, CodesFormat
    from stages.checkpoints.decoded import DecodedSound

READS, WRITES, VERSION = (VERDICTS, GENERATIONS, REQUESTS), CLIPS, 7
REPEATS = {REQUESTS: ("title",)}
"""What a file's tags tell of a request that its identity does not."""

LOOKED_UP_AT_ONCE = 32
"""Takes whose sound is in memory together: a hundred megabytes of half a minute each."""

QUIETER = 1.0
"""Loudness units below what was asked for at which a clip is remarked on: about the least that is heard."""

Sound = Float[Samples, "C N"]
Mark = Callable[[Samples, int], Samples]
"""Returns the watermark [1, N] of a levelled sound of a sample rate."""


class Config(schemas.Config):
    """How codes become files."""

    codec: WeightsRef = ENCODEC_32KHZ
    """The codec that the model's codes belong to (MusicGen, arXiv:2306.05284, 3.1). In a recipe it is `tokenize.codec`
    unless it is given, or the codec inside `generate.checkpoint` where that is one from elsewhere."""
    format: AudioFormat = "flac"
    """Form of the files; MP3 and Ogg Vorbis at their encoders' defaults."""
    bits: Literal[16, 24] = 16
    """Bits a sample of FLAC and WAV files."""
    loudness: float = Field(default=-16.0, ge=-50, le=-5)
    """Integrated loudness of a clip, LUFS by ITU-R BS.1770 (AES TD1008 for music that is levelled track by track)."""
    true_peak: float = Field(default=-1.0, ge=-20, le=0)
    """Highest true peak, dBTP (EBU R 128, AES TD1008)."""
    max_gain: float = Field(default=30.0, ge=0, le=60)
    """Most that a quiet clip is raised, dB: what is nearly silent stays nearly silent, rather than becoming noise."""
    credentials: Credentials | None = None
    """Who signs the files (C2PA content credentials); None leaves them unsigned. Ogg files cannot be signed."""

    watermark: Watermark | None = None
    """Which watermark the sound carries; None leaves it as it is."""

    @model_validator(mode="after")
    def _can_be_signed(self) -> Self:
        if self.credentials is not None and self.format not in FORMATS:
            wanted = f"one of {', '.join(FORMATS)} with decode.credentials"
            raise ValueError(f"expected {wanted}, got {self.format}: C2PA has no place for signatures in it")
        return self


def dependencies(config: Config, weights: Callable[[WeightsRef], LocalWeights]) -> Dependencies:
    """Return what has a say in the files: of a signer the certificate's digest, not where it and its key lie; of a
    watermark what makes it, not what finds it.

    Raises:
        ValueError: there is no such certificate, or its key cannot be had.
    """
    changes: dict[str, schemas.Config] = {}
    if config.watermark is not None:
        changes["watermark"] = config.watermark.model_copy(update={"detector": None})
    if config.credentials is not None:
        Signer(config.credentials)  # which raises now, and not after hours of training
        changes["credentials"] = identified_credentials(config.credentials)
    return Dependencies(config.model_copy(update=changes), ())


def shard(
    config: Config, context: Context, verdicts: pa.Table, generations: pa.Table, requests: pa.Table
) -> Iterator[Shard]:
    """Write a file for every take, and yield its row once the file is there.

    Raises:
        ValueError: the codec is not one that the codes can belong to, or the watermark's network is none.
    """
    from schemas.queries.descent import training_licences  # with DuckDB, which a plan does without

    generation_of = {(row["request_id"], row["take"]): row for row in generations.to_pylist()}
    generation_rows = [chosen_try(row, generation_of[row["request_id"], row["take"]]) for row in verdicts.to_pylist()]
    sounds = _Sounds(config, context, generation_rows)
    request_of = {row["request_id"]: row for row in requests.to_pylist()}
    mark, sign = _marking(config, context), _signing(config, context)
    licences_of = cache(partial(training_licences, context.store))
    context.progress.start("decode", len(generation_rows), "clips")
    wanted = [(row, request_of[row["request_id"]]) for row in generation_rows]
    taken = sounds.take([(row, request["seconds"]) for row, request in wanted])
    for (generation, request), sound in zip(wanted, taken, strict=True):
        context.check_stopped()
        if np.isfinite(sound.samples).all():
            licences = licences_of(generation["checkpoint_id"])
            rendering = _render(config, generation, request, licences, sound.samples, sound.sample_rate, mark)
            _remark_on_level(config, context, request, generation, rendering)
            part = Shard([_write_clip(config, context, generation, request, rendering, sign)])
        else:
            message = f"expected finite samples for line {request['line']}, got NaN or infinity from {config.codec}"
            key = f"{generation['request_id']}/{generation['take']}"
            part = Shard([], [Reject(key, "", "not finite", message)])
        context.progress.advance()
        yield part


class _Sounds:
    """The sound of takes: what the gate handed on, else the codec's, which is loaded when it is first needed.

    Args:
        generations: rows of `generations`, of the tries that the gate chose.
    """

    def __init__(self, config: Config, context: Context, generations: Sequence[Row]) -> None:
        from stages.checkpoints.decoded import DecodedSounds

        self._reference, self._context, self._generations = config.codec, context, generations
        digest = context.weights(config.codec).digest
        self._handed_on = DecodedSounds(context.store, context.versions[VERDICTS.name], digest)

    @cached_property
    def _codecs(self) -> "dict[CodesFormat, AnyCodec]":
        from stages.checkpoints.codecs import borrow_codecs_of_rows

        return borrow_codecs_of_rows(self._generations, self._reference, self._context, "decode.codec")

    def take(self, wanted: Sequence[tuple[Row, float]]) -> "Iterator[DecodedSound]":
        """Yield the sound of takes, cut to the seconds that were asked for. One that was handed on is gone then.

        Raises:
            ValueError: the codec is not one that the codes can belong to.
        """
        from stages.checkpoints.codecs import CodesFormat, decode_generations
        from stages.checkpoints.decoded import DecodedSound

        for first in range(0, len(wanted), LOOKED_UP_AT_ONCE):
            part = wanted[first : first + LOOKED_UP_AT_ONCE]
            handed_on = [self._handed_on.find(generation, seconds) for generation, seconds in part]
            missing = [each for each, sound in zip(part, handed_on, strict=True) if sound is None]
            decoded = decode_generations(self._codecs, missing) if missing else iter(())
            for (generation, _), sound in zip(part, handed_on, strict=True):
                self._handed_on.drop(generation)
                if sound is not None:
                    yield sound
                else:
                    yield DecodedSound(next(decoded), self._codecs[CodesFormat.from_row(generation)].sample_rate)


@dataclass(frozen=True)
class Rendering:
    """A clip as a file that is finished but for its signature."""

    data: bytes
    measures: Row
    """What is known of its sound, by column of `clips`."""


def _render(
    config: Config, generation: Row, request: Row, licences: str, sound: Sound, sample_rate: int, mark: Mark | None
) -> Rendering:
    """Level and encode decoded sound, with its tags and marks.

    Args:
        licences: those of the recordings that the model learned from, as the file's tags say them.
    """
    before = measure_audio(sound, sample_rate)
    tags = clip_tags(generation, request, licences) | ({CREDENTIALS_TAG: "C2PA"} if config.credentials else {})
    if config.watermark is not None:
        tags |= {WATERMARK_TAG: watermark_words(config.watermark.message)}
    data, measures = _encode(config, sound, sample_rate, before, tags, mark)
    form = {"format": config.format, "sample_rate": sample_rate, "channels": sound.shape[0]}
    levels = {"loudness_before": before.loudness, "true_peak_before": before.true_peak}
    return Rendering(data, form | levels | measures)


def render_again(config: Config, context: Context, generation: Row, request: Row) -> Rendering:
    """Make the file of a clip once more from its codes, and write nothing.

    Args:
        generation: of the try that the gate chose (`chosen_try`).

    Raises:
        ValueError: the codec is not one that the codes can belong to, or cannot be had.
    """
    from schemas.queries.descent import training_licences
    from stages.checkpoints.codecs import CodesFormat, borrow_codecs_of_rows, decode_generation

    codecs = borrow_codecs_of_rows([generation], config.codec, context, "decode.codec")
    codec = codecs[CodesFormat.from_row(generation)]
    sound = decode_generation(codec, generation, request["seconds"])
    licences = training_licences(context.store, generation["checkpoint_id"])
    return _render(config, generation, request, licences, sound, codec.sample_rate, _marking(config, context))


def _remark_on_level(config: Config, context: Context, request: Row, generation: Row, rendering: Rendering) -> None:
    """Say of a clip that it is clearly quieter than was asked for: it was raised as far as it may be."""
    loudness = rendering.measures["loudness"]
    if loudness is None or loudness > config.loudness - QUIETER:
        return
    example = f"line {request['line']}, take {generation['take']}: {loudness:.1f} LUFS, asked {config.loudness:g}"
    context.remarks.add("clips that decode.true_peak or decode.max_gain keeps quieter", "decode.loudness", example)


Sign = Callable[[bytes, Row], bytes]
"""What signs a finished file that was made of a row of `generations`, of the chosen try."""


def _write_clip(
    config: Config, context: Context, generation: Row, request: Row, rendering: Rendering, sign: Sign | None
) -> Row:
    """Sign the file of a clip where that is asked for, write it, and return its row."""
    data = rendering.data if sign is None else sign(rendering.data, generation)
    sha256 = hashlib.sha256(data).hexdigest()
    # A file is never replaced by another: a clip that is made again, with a new title, lies beside the one that users
    # have until it is published.
    name = f"{generation['request_id']}-{generation['take']}-{sha256[:8]}.{config.format}"
    path = f"audio/version={context.fingerprint}/{name}"
    context.store.write_bytes(path, data)
    return {
        "request_id": generation["request_id"],
        "take": generation["take"],
        "checkpoint_id": generation["checkpoint_id"],
        "seed": generation["seed"],
        "retake": generation["retake"],
        "reasons": generation["reasons"],
        "title": request["title"],
        "path": path,
        "bytes": len(data),
        "sha256": sha256,
    } | rendering.measures


def _marking(config: Config, context: Context) -> Mark | None:
    """Return what makes the watermark of a sound; None where none is asked for, and nothing of it is imported.

    Raises:
        ValueError: its network is none, or the package is not there.
        MissingWeights: its weights cannot be had.
    """
    if config.watermark is None:
        return None
    from stages.networks.audioseal import load_watermark_generator

    path = context.weights(config.watermark.generator).path
    return load_watermark_generator(path, config.watermark.message, config.watermark.strength, context.device).mark


def _signing(config: Config, context: Context) -> Sign | None:
    """Return what signs files as the configuration says; None where they stay unsigned.

    Raises:
        ValueError: the certificate or its key cannot be had.
    """
    if config.credentials is None:
        return None
    signer = Signer(config.credentials)
    if config.credentials.certificate == DEVELOPMENT:
        context.remarks.add(
            "clips are signed with a development certificate, which nobody trusts", "decode.credentials"
        )
    from schemas.queries.descent import model_behind

    model = cache(partial(model_behind, context.store))

    def sign(data: bytes, row: Row) -> bytes:
        name, digest = model(row["checkpoint_id"])
        key = row["checkpoint_id"], digest, row["request_id"], row["take"], row["seed"]
        generation = Generation(name, *key, watermark_words(config.watermark.message) if config.watermark else "")
        return signer.sign(data, config.format, generation, SourceType.TRAINED)

    return sign


def _encode(
    config: Config,
    sound: Sound,
    sample_rate: int,
    before: AudioMeasures,
    tags: Mapping[str, str],
    mark: Mark | None,
) -> tuple[bytes, Row]:
    """Encode a file at the target loudness, whose decoded sound keeps the true-peak limit.

    Returns the file, and what was measured of its decoded sound, by column of `clips`.
    """
    target = config.loudness if before.loudness is None else min(config.loudness, before.loudness + config.max_gain)
    file = encode_at_level(
        sound,
        sample_rate,
        config.format,
        tags,
        bits=config.bits,
        loudness=target,
        true_peak=config.true_peak,
        source=SourceType.TRAINED,
        mark=mark,
    )
    return file.data, {"seconds": file.seconds} | asdict(file.measures)
