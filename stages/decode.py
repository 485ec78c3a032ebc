"""Clips: generated codes through the codec's decoder to audio files, at one loudness and never clipped.

The codes and the seed of a clip are those of the try that the gate chose. A take that never passed gets a file too, and
its row has the reasons, but no view of clips shows it.

Every clip is decoded as if it were alone, so its file depends on its codes and nothing else. Where the gate has just
decoded the codes, its samples are taken (`stages.checkpoints.decoded`), and no codec is loaded. Loudness and peaks are
measured twice: on the codec's output, and on the finished file decoded again, which is what a player plays. Decoding a
lossy format can exceed the peak limit that the samples kept; such a clip is turned down and encoded again.

Samples are rounded to 16 or 24 bits without dither: a codec's own noise lies far above the rounding even of 16 bits, so
dither would change nothing that can be heard.

A watermark, if there is one, is added to the levelled sound; after that only peaks are brought down.

Content credentials, if there are any, are added last. Signing does not change the samples; it is random, so the bytes
of the file differ each time.
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
SHOWS = (REQUESTS,)
REPEATS = {REQUESTS: ("title",)}
"""Columns of a request that are written into a file's tags, but are not part of the request's identity."""

LOOKED_UP_AT_ONCE = 32
"""Takes whose sound is in memory at once: a hundred megabytes at half a minute each."""

QUIETER = 1.0
"""A clip gets a remark if it is this many loudness units below the requested loudness: about the smallest difference
that is heard."""

Sound = Float[Samples, "C N"]
Mark = Callable[[Samples, int], Samples]
"""Returns the watermark [1, N] of a levelled sound; called with the samples and their sample rate."""


class Config(schemas.Config):
    """How codes become files."""

    codec: WeightsRef = ENCODEC_32KHZ
    """The codec of the model's codes (MusicGen, arXiv:2306.05284, 3.1). In a recipe it is `tokenize.codec` unless it is
    given, or the codec inside `generate.checkpoint` where that is one from elsewhere."""
    format: AudioFormat = "flac"
    """Format of the files; MP3 and Ogg Vorbis use their encoders' defaults."""
    bits: Literal[16, 24] = 16
    """Bits of a sample in FLAC and WAV files."""
    loudness: float = Field(default=-16.0, ge=-50, le=-5)
    """Integrated loudness of a clip, LUFS by ITU-R BS.1770 (AES TD1008 for music that is levelled track by track)."""
    true_peak: float = Field(default=-1.0, ge=-20, le=0)
    """Highest true peak, dBTP (EBU R 128, AES TD1008)."""
    max_gain: float = Field(default=30.0, ge=0, le=60)
    """Largest gain of a quiet clip, dB. It keeps a nearly silent clip nearly silent, rather than turning it into
    noise."""
    credentials: Credentials | None = None
    """The signer of the files (C2PA content credentials); None leaves them unsigned. Ogg files cannot be signed."""

    watermark: Watermark | None = None
    """The watermark that is added to the sound; None adds none."""

    @model_validator(mode="after")
    def _can_be_signed(self) -> Self:
        if self.credentials is not None and self.format not in FORMATS:
            wanted = f"one of {', '.join(FORMATS)} with decode.credentials"
            raise ValueError(f"expected {wanted}, got {self.format}: C2PA cannot sign this format")
        return self


def dependencies(config: Config, weights: Callable[[WeightsRef], LocalWeights]) -> Dependencies:
    """Return what the files depend on. Of a signer this is the certificate's digest, not the place of the certificate
    and its key; of a watermark the generator, not the detector.

    Raises:
        ValueError: there is no such certificate, or its key is not available.
    """
    changes: dict[str, schemas.Config] = {}
    if config.watermark is not None:
        changes["watermark"] = config.watermark.model_copy(update={"detector": None})
    if config.credentials is not None:
        Signer(config.credentials)  # raises now rather than after hours of training
        changes["credentials"] = identified_credentials(config.credentials)
    return Dependencies(config.model_copy(update=changes), ())


def shard(
    config: Config, context: Context, verdicts: pa.Table, generations: pa.Table, requests: pa.Table
) -> Iterator[Shard]:
    """Write a file for every take, and yield its row once the file is written.

    Raises:
        ValueError: the codec is not the one of the codes, or the watermark's network cannot be loaded.
    """
    from schemas.queries.descent import training_licences  # imports DuckDB, which a plan does not need

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
    """The sound of takes: from the gate if it was handed on, else from the codec, which is loaded when it is first
    needed.

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
        """Yield the sound of takes, cut to the requested seconds. A sound that the gate handed on is removed from its
        folder.

        Raises:
            ValueError: the codec is not the one of the codes.
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
    """A clip as a file that is finished except for its signature."""

    data: bytes
    measures: Row
    """Measures of its sound, by column of `clips`."""


def _render(
    config: Config, generation: Row, request: Row, licences: str, sound: Sound, sample_rate: int, mark: Mark | None
) -> Rendering:
    """Level, mark and encode decoded sound, with its tags.

    Args:
        licences: licences of the recordings that the model learned from, as they are written into the tags.
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
    """Make the file of a clip again from its codes, without writing it.

    Args:
        generation: row of `generations`, of the try that the gate chose (`chosen_try`).

    Raises:
        ValueError: the codec is not the one of the codes, or cannot be fetched.
    """
    from schemas.queries.descent import training_licences
    from stages.checkpoints.codecs import CodesFormat, borrow_codecs_of_rows, decode_generation

    codecs = borrow_codecs_of_rows([generation], config.codec, context, "decode.codec")
    codec = codecs[CodesFormat.from_row(generation)]
    sound = decode_generation(codec, generation, request["seconds"])
    licences = training_licences(context.store, generation["checkpoint_id"])
    return _render(config, generation, request, licences, sound, codec.sample_rate, _marking(config, context))


def _remark_on_level(config: Config, context: Context, request: Row, generation: Row, rendering: Rendering) -> None:
    """Add a remark if a clip is clearly quieter than requested although it was raised as far as allowed."""
    loudness = rendering.measures["loudness"]
    if loudness is None or loudness > config.loudness - QUIETER:
        return
    example = f"line {request['line']}, take {generation['take']}: {loudness:.1f} LUFS, requested {config.loudness:g}"
    context.remarks.add(
        "clips that decode.true_peak or decode.max_gain keeps quieter than requested", "decode.loudness", example
    )


Sign = Callable[[bytes, Row], bytes]
"""Signs a finished file; called with its bytes and the row of `generations` of the chosen try."""


def _write_clip(
    config: Config, context: Context, generation: Row, request: Row, rendering: Rendering, sign: Sign | None
) -> Row:
    """Sign the file of a clip where that is asked for, write it, and return its row."""
    data = rendering.data if sign is None else sign(rendering.data, generation)
    sha256 = hashlib.sha256(data).hexdigest()
    # A file is never replaced by another: a clip that is made again, say with a new title, is written beside the
    # published one, which users have until the new one is published.
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
    """Return the function that makes watermarks; None where none is asked for, without importing the networks.

    Raises:
        ValueError: the watermark's network cannot be loaded, or the package is not installed.
        MissingWeights: its weights cannot be fetched.
    """
    if config.watermark is None:
        return None
    from stages.networks.audioseal import load_watermark_generator

    path = context.weights(config.watermark.generator).path
    return load_watermark_generator(path, config.watermark.message, config.watermark.strength, context.device).mark


def _signing(config: Config, context: Context) -> Sign | None:
    """Return the function that signs files; None where they stay unsigned.

    Raises:
        ValueError: the certificate or its key is not available.
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
    """Encode a file at the target loudness, so that its decoded sound keeps the true-peak limit.

    Return the file, and the measures of its decoded sound by column of `clips`.
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
