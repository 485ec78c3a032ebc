"""Experiments: requests generated under other conditions, by a catalog's model or by one with random weights."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from transformers import T5EncoderModel

from model.music_model import Attributes, MusicModel
from schemas import WeightsRef
from schemas.identity import by_hash
from schemas.tables import Row
from stages.audio import LISTENING_LOUDNESS, LISTENING_PEAK, SourceType, encode_audio, normalise_loudness
from stages.checkpoints.adapter_files import uses_of
from stages.checkpoints.codecs import CodesFormat, borrow_codecs_of_rows, decode_generation
from stages.checkpoints.facts import CheckpointFacts
from stages.checkpoints.generation import (
    RequestConditions,
    description_of,
    fields_of,
    frame_wise_conditions,
    generate_codes,
    generation_request,
)
from stages.checkpoints.loading import load_checkpoint
from stages.evaluate.control_config import Config
from stages.evaluate.scoring import score_sound
from stages.judging.asking import asked_by_request
from stages.judging.instruments import InstrumentJudges
from stages.judging.melody import Melody, melody_analysis
from stages.pipeline.contract import Context

if TYPE_CHECKING:
    from model.decoding.generation import GenerationRequest


@dataclass(frozen=True)
class Take:
    """A take that was generated for the catalog: its rows of `requests` and `generations`."""

    request: Row
    generation: Row


@dataclass(frozen=True)
class Trial:
    """One sound of an experiment: it has the seed of one take and all other inputs of another."""

    own: Take
    """The take whose seed is used."""
    given: Take
    """The take whose request the model is given, except for guidance."""
    guidance: float | None = None
    """Guidance coefficient; None for that of the own take's request."""


@dataclass(frozen=True)
class Experiment:
    """Trials of one model."""

    checkpoint: str
    trials: Sequence[Trial]
    sounds: str
    """Name of the group of sounds, judged by the request that was used."""
    ignored: str | None = None
    """Name of the group when the same sounds are judged by their own request, which was not used; None not to do so."""
    untrained_seed: int | None = None
    """Seed of random weights; None for the model's own weights."""


def experiments(
    config: Config, context: Context, generations: Sequence[Row], request_of: Mapping[str, Row]
) -> Iterator[Experiment]:
    """Yield the experiments on each model of the store. Requests are chosen by hash, among those that ask for something
    detectable and that do not continue a prompt, whose sound would be judged too."""
    for checkpoint in sorted({row["checkpoint_id"] for row in generations}):
        if context.library.checkpoint(checkpoint) is None:
            continue  # a model from elsewhere, whose training is not part of this catalog
        takes = [
            Take(request_of[row["request_id"]], row)
            for row in generations
            if row["checkpoint_id"] == checkpoint and row["take"] == 1
        ]
        takes = sorted(filter(_asks_something, takes), key=lambda take: by_hash(take.request["request_id"]))
        unchanged = [Trial(take, take) for take in takes]
        if config.untrained and takes:
            yield Experiment(
                checkpoint, unchanged[: config.untrained], "untrained", untrained_seed=config.untrained_seed
            )
        if config.swapped and len(takes) > 1:
            others = takes[1:] + takes[:1]
            swapped = [Trial(own, given) for own, given in zip(takes, others, strict=True)]
            yield Experiment(checkpoint, swapped[: config.swapped], "swap_followed", ignored="swap_ignored")
        for guidance in config.guidances if takes else ():
            guided = [Trial(take, take, guidance) for take in takes[: config.guided]]
            yield Experiment(checkpoint, guided, f"guidance {guidance:g}")


def _asks_something(take: Take) -> bool:
    asked = any(take.request[name] for name in ("key", "bpm", "chords", "melody"))
    return asked and not take.request["prompt"]


def score_experiment(context: Context, codec_reference: WeightsRef, experiment: Experiment) -> list[Row]:
    """Generate, decode and score the trials of an experiment.

    Raises:
        ValueError: the codec is not the one that decodes the model's codes.
        Stopped: the run was asked to stop.
    """
    local = context.weights(WeightsRef.to_checkpoint(experiment.checkpoint))
    trained = load_checkpoint(local.path, context.weights)
    model = trained.model
    if experiment.untrained_seed is not None:
        model = untrained(model, experiment.untrained_seed)
    rows = [trial.given.generation for trial in experiment.trials]
    codecs = borrow_codecs_of_rows(rows, codec_reference, context, "controls.codec")
    clips = [_clip(trial, trained.facts) for trial in experiment.trials]
    analysis = melody_analysis(context, [experiment.checkpoint])
    instruments = InstrumentJudges(context)
    scored: list[Row] = []
    adapters = None if model is not trained.model else [uses_of(trial.own.request) for trial in experiment.trials]
    generated = generate_codes(context, model.to(context.device), trained.facts, clips, adapters=adapters)
    for number, codes in generated:
        trial = experiment.trials[number]
        codec = codecs[CodesFormat.from_row(trial.given.generation)]
        sound = decode_generation(codec, {"codes": codes}, trial.given.request["seconds"])
        detected = instruments.detect(trial.given.generation | {"codes": codes})
        judged_by = [(experiment.sounds, trial.given)]
        judged_by += [(experiment.ignored, trial.own)] if experiment.ignored else []
        for sounds, take in judged_by:
            key = {"request_id": trial.own.request["request_id"], "take": trial.own.generation["take"]}
            row: Row = {"sounds": sounds, "item": f"{key['request_id']}/{key['take']}"} | key
            row |= {"checkpoint_id": experiment.checkpoint}
            row |= score_sound(
                sound,
                codec.sample_rate,
                asked_by_request(take.request, detected.names if detected else ()),
                instruments=detected,
            )
            melody = Melody.of_row(take.generation)
            if melody is not None and analysis is not None:
                row |= melody.scores(sound, codec.sample_rate, analysis)
            if experiment.untrained_seed is not None:
                row |= _store_sound(context, row, trial, sound, codec.sample_rate)
            scored.append(row)
        context.progress.advance()
    return scored


def _store_sound(
    context: Context, row: Row, trial: Trial, sound: Float[npt.NDArray[np.float32], "C N"], sample_rate: int
) -> Row:
    """Write what an untrained model made, to be heard beside the clip. Return its columns `path` and `sha256`."""
    levelled, _ = normalise_loudness(sound, sample_rate, LISTENING_LOUDNESS, LISTENING_PEAK)
    tags = {"title": "Untrained model", "artist": "Segue (generated)", "generated": "true"}
    tags |= {"request": row["request_id"], "checkpoint": row["checkpoint_id"]}
    tags |= {"seed": str(trial.own.generation["seed"])}
    data = encode_audio(levelled, sample_rate, "flac", tags, source=SourceType.TRAINED)
    digest = hashlib.sha256(data).hexdigest()
    name = f"untrained-{row['request_id']}-{row['take']}-{digest[:8]}.flac"
    path = f"audio/checkpoint={row['checkpoint_id']}/{name}"
    context.store.write_bytes(path, data)
    return {"path": path, "sha256": digest}


def _clip(trial: Trial, facts: CheckpointFacts) -> "GenerationRequest":
    """Return what to generate for a trial: the request of `given` with the seed and guidance of `own`."""
    own, given = trial.own.request, trial.given.generation
    guided = (own["guidance"], own.get("guidance_asked")) if trial.guidance is None else (trial.guidance, True)
    request = trial.given.request | dict(zip(("guidance", "guidance_asked"), guided, strict=True))
    melody = Melody.of_row(given)
    # A CLAP reference is left out: it would have to be embedded again, and no score here depends on it.
    attributes = Attributes(
        description=description_of(request, facts.model),
        chroma=None if melody is None else melody.frames,
        fields=fields_of(request, facts),
        **frame_wise_conditions(request, facts, given["frames"]),
    )
    return generation_request(
        request, RequestConditions(attributes), facts, frames=given["frames"], seed=trial.own.generation["seed"]
    )


def untrained(model: MusicModel, seed: int) -> MusicModel:
    """Return a model of the same architecture with the random weights that training would start from. A text encoder
    that was fine-tuned with the model gets random weights too; a frozen one is kept."""
    encoder, tokenizer = None, None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model.description is not None:
            encoder, tokenizer = model.description.encoder, model.description.tokenizer
            if model.config.description is not None and model.config.description.finetune:
                encoder = T5EncoderModel(encoder.config)
        return MusicModel(model.config, encoder, tokenizer).eval()
