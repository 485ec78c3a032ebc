"""The training of the stage `train_codec`: recordings split, steps taken, the state saved, the result evaluated and
written.

It is a module of its own because it loads torch, and a plan imports the stage.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
from transformers import EncodecFeatureExtractor, EncodecModel

from model.codec.codec import Codec
from model.codec.evaluation import evaluate_codec
from model.codec.network import new_network
from model.codec.training import CodecTraining
from model.optim.train_state import step_seed
from schemas.identity import hold_out
from schemas.weights import folder_digest
from stages.checkpoints.disk_errors import disk_errors
from stages.checkpoints.provenance import tracks_to_learn
from stages.checkpoints.rows import TrainingSummary, checkpoint_row, model_folder
from stages.checkpoints.training_log import TrainingLog, fetch_state, load_state, save_state
from stages.networks.loading import save_network
from stages.pipeline.contract import Context, ReduceResult, Reject
from stages.train_codec.config import Config
from stages.train_codec.evaluation import HeldOut, baseline_metrics, held_out, keep_reconstructions, quality_metrics
from stages.train_codec.segments import DecodedRecordings, Segments, Track

INITIAL_WEIGHTS, DATA, CODEBOOKS = 0, 1, 2
"""Purposes of seeds. The purpose is part of the seed, so that no two purposes share their draws."""

SUMS, COUNTS = "sums", "counts"
"""Names in the saved state: the sums of the losses since the last row of `training`, and the number of steps in each
sum."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Splits:
    """Recordings to learn from, recordings to validate on, and recordings that are only used at the end."""

    train: list[Track]
    valid: list[Track]
    test: list[Track]


def train_codec(config: Config, context: Context, tracks: pa.Table) -> ReduceResult:
    """Do the work of the stage `train_codec`; see `stages.train_codec.reduce`."""
    splits = _split(config, tracks)
    learned = tracks_to_learn(context, [track.track_id for track in splits.train], config.licences)
    decoded = DecodedRecordings(config.network.sample_rate, config.network.channels)
    valid = held_out(config, decoded, splits.valid)
    if not valid:
        raise ValueError(
            f"expected a held-out recording with sound in its first {config.held_out_seconds:g} s, got none in "
            f"{len(splits.valid)}"
        )
    samples = round(config.training.segment * config.network.sample_rate / config.network.hop) * config.network.hop
    network = new_network(config.network, step_seed(config.seed, 0, INITIAL_WEIGHTS))
    network.to(torch.device(context.device))  # type: ignore[arg-type]
    segments = Segments(
        splits.train,
        decoded,
        config.training.batch_size,
        samples,
        config.gain,
        config.mix,
        step_seed(config.seed, 0, DATA),
        context.settings.workers or torch.get_num_threads(),
        context.device,
    )
    try:
        training = CodecTraining(network, config.training, step_seed(config.seed, 0, CODEBOOKS), segments)
        test = held_out(config, decoded, splits.test)
        untrained, metrics = Codec(training.untrained(), context.device), dict[str, float]()
        for split, sounds in (("valid", valid), ("test", test)):
            metrics |= baseline_metrics(untrained, sounds, split) if sounds else {}
        with training.threads():
            training_log = _train(config, context, training, valid)
        training.check_moved()
        trained = Codec(training.trained(), context.device)
        # The last step's validation used the same weights.
        metrics |= {f"valid_{name}": value for name, value in training_log.rows[-1]["metrics"]}
        for split, sounds in (("test", test), ("train", held_out(config, decoded, splits.train))):
            if sounds:
                metrics |= quality_metrics(evaluate_codec(trained, [sound.wav for sound in sounds]), split)
        reconstructions = keep_reconstructions(config, context, trained, valid)
        rejects = [
            Reject(track.track_id, track.uri, error.kind, str(error))
            for track in splits.train
            if (error := segments.unreadable.get(track.track_id))
        ]
    finally:
        segments.close()
    row = _export_codec(config, context, training.trained(), metrics, learned)
    also = {"training": training_log.training_rows(context.identity), "reconstructions": reconstructions}
    return ReduceResult([row], also=also, rejects=rejects)


def _split(config: Config, tracks: pa.Table) -> _Splits:
    """Return the recordings that can be trained on, by split. Refuse a training that would be useless, before it
    begins."""
    rows = tracks.select(["track_id", "uri", "seconds", "silence", "sample_rate", "split"]).to_pylist()
    faults = Counter(_fault(config, row) for row in rows)
    parts: dict[str, list[Track]] = {"train": [], "valid": [], "test": []}
    for row in sorted(rows, key=lambda row: row["track_id"]):
        if _fault(config, row) is None and row["split"] in parts:
            parts[row["split"]].append(Track(row["track_id"], row["uri"], row["seconds"]))
    if not parts["valid"]:
        chosen = hold_out([track.track_id for track in parts["train"]], config.held_out_share)
        log.warning("the split valid is empty: %d of %d training tracks are held out", len(chosen), len(parts["train"]))
        parts["valid"] = [track for track in parts["train"] if track.track_id in chosen]
        parts["train"] = [track for track in parts["train"] if track.track_id not in chosen]
    left_out = " and ".join(f"{count} are {fault}" for fault, count in sorted(faults.items(), key=str) if fault)
    if not parts["train"] or not parts["valid"]:
        raise ValueError(
            f"expected a recording to train a codec on and another to evaluate it on, of at least "
            f"{config.training.segment:g} s and {config.network.sample_rate} Hz and at most "
            f"{config.largest_silence:.0%} silent, got {len(parts['train'])} and {len(parts['valid'])}: of "
            f"{len(rows)} recordings {left_out or 'all are usable'}"
        )
    if left_out:
        log.warning("of %d recordings %s: they are left out", len(rows), left_out)
    seconds = sum(track.seconds for track in parts["train"])
    cardinality, frames = config.network.cardinality, seconds * config.network.sample_rate / config.network.hop
    if frames < cardinality:
        raise ValueError(
            f"expected at least {cardinality} frames of sound for codebooks of {cardinality} entries, got "
            f"{seconds:.1f} s ({frames:.0f} frames) in {len(parts['train'])} recordings"
        )
    return _Splits(parts["train"], parts["valid"], parts["test"])


def _fault(config: Config, row: Mapping[str, Any]) -> str | None:
    """Return why a recording cannot be learned from; None if it can."""
    if row["seconds"] < config.training.segment:
        return "too short"
    if (row["silence"] or 0.0) > config.largest_silence:
        return "too silent"
    if row["sample_rate"] < config.network.sample_rate and not config.upsample:
        return f"of less than {config.network.sample_rate} Hz (see train_codec.upsample)"
    return None


def _train(config: Config, context: Context, training: CodecTraining, valid: list[HeldOut]) -> TrainingLog:
    """Take all steps that are left, from where an earlier run of the same training ended."""
    fetch_state(context)
    saved = load_state(context.scratch())
    training_log = saved.training_log if saved else TrainingLog()
    names = ("loss", "gradient_norm", *training.loss_names)
    sums, counts = torch.zeros(len(names), dtype=torch.float64), torch.zeros(len(names), dtype=torch.float64)
    if saved:
        training.load(saved.tensors)
        for row in training_log.rows:
            # JSON has no tuples, but Arrow wants a map's items as tuples.
            row["metrics"] = [(name, value) for name, value in row["metrics"]]
        sums, counts = saved.tensors[SUMS], saved.tensors[COUNTS]
    steps = config.training.optimization.steps
    context.progress.start("training the codec", steps, "steps")
    if saved:
        context.progress.resume(training.updates)

    def save() -> None:
        save_state(context, training.state() | {SUMS: sums.clone(), COUNTS: counts.clone()}, training_log)

    while training.updates < steps:
        if context.stop.is_set():
            save()
        context.check_stopped()
        stats = training.step()
        values = {"loss": stats.loss, "gradient_norm": stats.gradient_norm, **stats.losses}
        sums += torch.tensor([values.get(name, 0.0) for name in names], dtype=torch.float64)
        counts += torch.tensor([float(name in values) for name in names], dtype=torch.float64)
        last = training.updates == steps
        if training.updates % config.log_every == 0 or last:
            # Losses of discriminators that were not updated since the last row have no mean.
            means = {name: value for name, value in zip(names, (sums / counts).tolist(), strict=True) if value == value}
            row = {"step": training.updates, "split": "train", "loss": means.pop("loss", None)}
            row |= {"learning_rate": stats.learning_rate, "gradient_norm": means.pop("gradient_norm", None)}
            training_log.rows.append(row | {"metrics": list(means.items())})
            sums, counts = torch.zeros_like(sums), torch.zeros_like(counts)
        codebooks_started = training.updates > config.training.quantizer_start
        if last or (codebooks_started and training.updates % config.valid_every == 0):
            codec = Codec(training.trained(), context.device)
            metrics = quality_metrics(evaluate_codec(codec, [sound.wav for sound in valid]))
            training_log.rows.append({"step": training.updates, "split": "valid", "metrics": list(metrics.items())})
        if training.updates % config.save_every == 0 or last:
            save()
        context.progress.advance(1, f"loss {stats.loss:.3f}")
    return training_log


@disk_errors()
def _export_codec(
    config: Config, context: Context, network: EncodecModel, metrics: Mapping[str, float], learned: pa.Table
) -> dict[str, Any]:
    """Write the codec's folder, and return its row."""
    extractor = EncodecFeatureExtractor(
        feature_size=config.network.channels, sampling_rate=config.network.sample_rate, padding_value=0.0
    )
    with context.store.new_folder(model_folder(context.identity)) as folder:
        save_network(network, folder)
        extractor.save_pretrained(folder)
        digest = folder_digest(folder)
    parameters = sum(value.numel() for value in network.parameters())
    summary = TrainingSummary(config.training.optimization.steps, parameters, learned.num_rows, metrics)
    return checkpoint_row(context, context.identity, "codec", digest, summary, learned=learned)
