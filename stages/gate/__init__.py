"""The gate: every take is judged before it becomes a clip, and made again if something is wrong with it.

A generation is decoded as it would be alone, before its loudness is changed, and compared with the limits of the
configuration (`stages.gate.config`). A take that exceeds a limit is *retaken*: generated again with the same inputs and
the take's next seed, until a try passes or the number of retakes is used up. A take that never passes is *quarantined*:
it becomes a file too, so that people can listen to it, but no view of clips shows it (`schemas.queries.views`). The try
with the fewest reasons against it is kept.

A row is a take with all of its tries, so it is whole or absent, however often the work is interrupted. The view `tries`
has a row for each try. A row holds codes only if a retake was chosen; the codes of first tries are in `generations`. A
verdict depends only on the take: the engine generates the same codes for a take in any batch, and each try is judged by
itself.

Decoded sound is handed on to `decode` while there is room for it (`stages.checkpoints.decoded`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas import WeightsRef
from schemas.tables import GENERATIONS, REQUESTS, VERDICTS, Row
from schemas.weights import LocalWeights
from stages.audio.references import RequestRefused
from stages.checkpoints.generation_config import CONSULTED, generation_dependencies, is_deterministic, take_seed
from stages.gate.config import Config, Limits
from stages.pipeline.contract import Context, Dependencies, Reject, Shard

if TYPE_CHECKING:
    from stages.checkpoints.codecs import AnyCodec, CodesFormat
    from stages.checkpoints.decoded import DecodedSound

__all__ = ["CONSULTS", "READS", "VERSION", "WRITES", "Config", "Limits", "dependencies", "shard"]

READS, CONSULTS, WRITES, VERSION = (GENERATIONS, REQUESTS), CONSULTED, VERDICTS, 2

AT_ONCE = {"cpu": 128, "cuda": 512}
"""Takes that are generated again together, by device: as many as `generate` has in memory at a time."""

Codes = npt.NDArray[np.uint16]
"""[K, T]."""


def dependencies(config: Config, weights: Callable[[WeightsRef], LocalWeights]) -> Dependencies:
    """Return what the verdicts depend on. The models that generate, and the tables that conditions are looked up in,
    count only if takes may be generated again.

    Raises:
        NotTrainedYet: an earlier stage has not trained the checkpoint yet.
        ValueError: there is no such checkpoint, or it is not available.
    """
    if not config.retakes:
        named = ("checkpoint", "text_encoder", "codec", "separator", "clap", "vocabulary")
        unread = config.generation.model_copy(update=dict.fromkeys(named))
        return Dependencies(config.model_copy(update={"generation": unread}), ())
    generating = generation_dependencies(config.generation, weights)
    return Dependencies(config.model_copy(update={"generation": generating.config}), generating.consults)


@dataclass(frozen=True, eq=False)
class _Try:
    """A try of a take that was judged."""

    retake: int
    """Number of tries before it."""
    seed: int
    codes: Codes
    reasons: tuple[str, ...]
    facts: Mapping[str, Any]
    """The measures that it was judged by, named as the fields of `verdicts.tries`; empty if it has no finite sound."""

    def as_row(self) -> Row:
        return {"retake": self.retake, "seed": self.seed, "passed": not self.reasons} | {
            "reasons": list(self.reasons),
            **self.facts,
        }


@dataclass(frozen=True, eq=False)
class _Undecoded:
    """A try that has codes but was not decoded and judged yet."""

    take: "_Take"
    retake: int
    seed: int
    codes: Codes


@dataclass(frozen=True, eq=False)
class _Take:
    """A take and the tries of it that were judged so far."""

    generation: Row
    request: Row
    tries: list[_Try]

    @property
    def key(self) -> str:
        return f"{self.generation['request_id']}/{self.generation['take']}"

    @property
    def passed(self) -> bool:
        return not self.tries[-1].reasons

    @property
    def best(self) -> _Try:
        """The try that passed, or else the one with the fewest reasons against it, the earliest of those."""
        return min(self.tries, key=lambda attempt: (not attempt.facts, len(attempt.reasons), attempt.retake))

    def verdict(self) -> Shard:
        """Return the take's row, or its reject if no try has finite sound."""
        best = self.best
        if not best.facts:
            message = f"expected finite samples for line {self.request['line']}, got NaN or infinity from the codec"
            return Shard([], [Reject(self.key, "", "not finite", message)])
        row = {name: self.generation[name] for name in ("request_id", "take", "checkpoint_id")}
        row |= {"retake": best.retake, "seed": best.seed, "passed": not best.reasons, "reasons": list(best.reasons)}
        return Shard(
            [
                row
                | {
                    "codes": list(best.codes) if best.retake else None,
                    "tries": [attempt.as_row() for attempt in self.tries],
                }
            ]
        )


def shard(config: Config, context: Context, generations: pa.Table, requests: pa.Table) -> Iterator[Shard]:
    """Yield the verdict of every generation, as soon as a try of it has passed or no retake is left.

    Raises:
        ValueError: the codec cannot decode the codes, or the checkpoint is broken.
        MissingWeights: weights that a retake needs are not available.
    """
    rows = generations.to_pylist()
    request_of = {row["request_id"]: row for row in requests.to_pylist()}
    judge = _Judge(config, context, rows)
    context.progress.start("gate", len(rows), "clips")
    waiting: list[_Take] = []
    first_tries = [
        _Undecoded(
            _Take(row, request_of[row["request_id"]], []), 0, row["seed"], np.array(row["codes"], dtype=np.uint16)
        )
        for row in rows
    ]
    for take in judge.judge(first_tries):
        context.check_stopped()
        if take.passed or not config.retakes or is_deterministic(take.request):
            context.progress.advance()
            yield take.verdict()
            continue
        waiting.append(take)
        if len(waiting) == AT_ONCE[context.device]:
            yield from _retake(config, context, judge, waiting)
            waiting = []
    if waiting:
        yield from _retake(config, context, judge, waiting)


def _retake(config: Config, context: Context, judge: "_Judge", takes: Sequence[_Take]) -> Iterator[Shard]:
    """Generate takes again, in rounds, and yield each verdict when it is known."""
    from stages.gate.retaking import Retaker

    retaker = Retaker(config.generation, context)
    failing: list[_Take] = []
    for take in takes:
        try:
            retaker.read_conditions(take.request)
        except RequestRefused as error:
            context.progress.advance()
            message = f"did not pass the gate, and cannot be generated again: {error}"
            if error.passing:
                message = f"line {take.request['line']}: {message}"
                yield Shard([], [Reject(take.key, take.request["name"] or "", error.kind, message, passing=True)])
            else:
                yield replace(take, tries=[replace(take.tries[0], reasons=(*take.tries[0].reasons, message))]).verdict()
        else:
            failing.append(take)
    for retake in range(1, config.retakes + 1 if failing else 1):
        seeds = [take_seed(take.request["seed"], take.generation["take"], retake) for take in failing]
        still_failing: list[_Take] = []
        for number, codes in retaker.generate([take.request for take in failing], seeds):
            context.check_stopped()
            again = _Undecoded(failing[number], retake, seeds[number], codes.numpy().astype(np.uint16))
            (take,) = judge.judge([again])  # judged at once, so that its verdict survives if the gate is killed
            if take.passed or retake == config.retakes:
                context.progress.advance()
                yield take.verdict()
            else:
                still_failing.append(take)
        failing = still_failing
        if not failing:
            return


class _Judge:
    """Decodes tries and judges each by itself. The sound of a take's best try is handed on to `decode`.

    Raises:
        ValueError: the codec cannot decode the codes.
    """

    def __init__(self, config: Config, context: Context, generations: Sequence[Row]) -> None:
        from stages.checkpoints.codecs import borrow_codecs_of_rows
        from stages.checkpoints.decoded import DecodedSounds
        from stages.judging.melody import melody_analysis
        from stages.judging.seams import window_frames

        self._config = config
        self._codecs: dict[CodesFormat, AnyCodec]
        self._codecs = borrow_codecs_of_rows(generations, config.codec, context, "gate.codec")
        self._decoded = DecodedSounds(context.store, context.fingerprint, context.weights(config.codec).digest)
        self._decoded.make_room()
        checkpoints = {row["checkpoint_id"] for row in generations}
        self._windows = {checkpoint: window_frames(context, checkpoint) for checkpoint in checkpoints}
        followed = config.limits.chroma_similarity is not None
        self._analyses = {
            checkpoint: melody_analysis(context, [checkpoint]) if followed else None for checkpoint in checkpoints
        }

    def judge(self, tries: Sequence[_Undecoded]) -> Iterator[_Take]:
        """Decode tries, cut to the asked duration as in `decode`, and judge them. Yield the take of each try after
        adding the try to it."""
        from stages.checkpoints.codecs import CodesFormat, decode_generations
        from stages.checkpoints.decoded import DecodedSound

        wanted = [
            (attempt.take.generation | {"codes": attempt.codes}, attempt.take.request["seconds"]) for attempt in tries
        ]
        decoded = decode_generations(self._codecs, wanted)
        for attempt, (generation, seconds), samples in zip(tries, wanted, decoded, strict=True):
            take = attempt.take
            sound = DecodedSound(samples, self._codecs[CodesFormat.from_row(generation)].sample_rate)
            reasons, facts = self._judge_sound(generation, take.request, sound)
            take.tries.append(_Try(attempt.retake, attempt.seed, attempt.codes, reasons, facts))
            if facts and take.best is take.tries[-1]:
                self._decoded.keep(generation, seconds, sound)
            yield take

    def _judge_sound(
        self, generation: Row, request: Row, sound: "DecodedSound"
    ) -> tuple[tuple[str, ...], Mapping[str, Any]]:
        """Return the reasons against a try, and the measures that it was judged by, which are empty if it has no finite
        sound.

        Args:
            generation: the take's row, with the codes of the try.
        """
        from stages.gate.judging import follow_request, reasons_against
        from stages.gate.measuring import measure_try
        from stages.judging.melody import Melody
        from stages.judging.seams import window_borders

        samples, sample_rate = sound.samples, sound.sample_rate
        if not samples.size or not np.isfinite(samples).all():
            return ("sound: expected finite samples, got NaN, infinity or no samples",), {}
        limits, checkpoint = self._config.limits, generation["checkpoint_id"]
        borders = window_borders(generation, self._windows[checkpoint], self._config.generation.stride)
        measures = measure_try(
            samples,
            sample_rate,
            generation["codes"],
            generation["frame_rate"],
            borders,
            generation["prompt_frames"] or 0,
        )
        fidelity, missed = follow_request(
            samples, sample_rate, request, Melody.of_row(generation), self._analyses[checkpoint], limits
        )
        reasons = reasons_against(measures, limits, request["seconds"])
        return (*reasons, *missed), asdict(measures) | asdict(fidelity)
