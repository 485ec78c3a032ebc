"""How the stage `train_codec` trains: recordings parted, steps taken, the state kept, the result judged and written.

Apart from the stage itself, which a plan reads, because this loads torch.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import torch
from transformers import EncodecFeatureExtractor, EncodecModel

from model.codec.codec import Codec
from model.codec.judging import CodecQuality, judge
from model.codec.training import CodecStep, CodecTraining, new_network
from model.training import step_seed
from schemas.weights import folder_digest
from stages.audio import AudioError
from stages.contract import Context, Reject, Whole
from stages.journal import Journal, load_state, save_state
from stages.segments import Segments, Sounds, Source

if TYPE_CHECKING:
    from stages.train_codec import Config

INITIAL_WEIGHTS, DATA, CODEBOOKS = 0, 1, 2
"""What a seed is for; part of it, so that no two purposes share their draws."""

SUMS, COUNT = "sums", "count"
"""Names in the saved state: the losses since the last row of `training`, and of how many steps."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Splits:
    """Recordings to learn from, and others to judge by."""

    train: list[Source]
    valid: list[Source]


def train_codec(config: "Config", context: Context, tracks: pa.Table) -> Whole:
    """What the stage `train_codec` does."""
    splits = _split(config, tracks)
    sounds = Sounds(config.network.sample_rate, config.network.channels)
    held_out = _held_out(config, sounds, splits.valid)
    samples = round(config.training.segment * config.network.sample_rate / config.network.hop) * config.network.hop
    network = new_network(config.network, step_seed(config.seed, 0, INITIAL_WEIGHTS))
    network.to(torch.device(context.device))  # type: ignore[arg-type]
    segments = Segments(
        splits.train,
        sounds,
        config.training.batch_size,
        samples,
        config.gain,
        step_seed(config.seed, 0, DATA),
        context.settings.workers or torch.get_num_threads(),
        context.device,
    )
    try:
        training = CodecTraining(network, config.training, step_seed(config.seed, 0, CODEBOOKS), segments)
        untrained = _judge(training.untrained(), context, held_out)
        journal = _train(config, context, training, held_out)
        quality = _judge(training.trained(), context, held_out)
        rejects = [
            Reject(source.track_id, source.uri, segments.unreadable[source.track_id].kind, str(error))
            for source in splits.train
            if (error := segments.unreadable.get(source.track_id))
        ]
    finally:
        segments.close()
    metrics = _named(quality, "valid") | _named(untrained, "valid", "_untrained")
    row = _export(config, context, training.trained(), metrics, rows_seen=len(splits.train))
    return Whole([row], also={"training": journal.training_rows(context.identity)}, rejects=rejects)


def _split(config: "Config", tracks: pa.Table) -> _Splits:
    """What can be trained on; everything that would make a training useless is told before it begins."""
    rows = tracks.select(["track_id", "uri", "seconds", "silence", "split"]).to_pylist()
    shortest = config.training.segment
    long_enough = [row for row in rows if row["seconds"] >= shortest]
    usable = [row for row in long_enough if (row["silence"] or 0.0) <= config.largest_silence]
    parts: dict[str, list[Source]] = {"train": [], "valid": []}
    for row in sorted(usable, key=lambda row: row["track_id"]):
        if row["split"] in parts:
            parts[row["split"]].append(Source(row["track_id"], row["uri"], row["seconds"]))
    if not parts["valid"] and len(parts["train"]) > 1:
        ordered = sorted(parts["train"], key=_hash)
        count = max(1, round(config.held_out_share * len(ordered)))
        log.warning("the split valid is empty: %d of %d training tracks are held out", count, len(ordered))
        parts = {"train": sorted(ordered[count:], key=lambda one: one.track_id), "valid": ordered[:count]}
    if not parts["train"] or not parts["valid"]:
        raise ValueError(
            f"expected a recording to train a codec on and another to judge it by, each of {shortest:g} s or more and "
            f"at most {config.largest_silence:.0%} silent, got {len(parts['train'])} and {len(parts['valid'])}: of "
            f"{len(rows)} recordings {len(rows) - len(long_enough)} are too short and "
            f"{len(long_enough) - len(usable)} too silent"
        )
    seconds = sum(source.seconds for source in parts["train"])
    cardinality, frames = config.network.cardinality, seconds * config.network.sample_rate / config.network.hop
    if frames < cardinality:
        raise ValueError(
            f"expected at least {cardinality} frames of sound for codebooks of {cardinality} entries, got "
            f"{seconds:.1f} s ({frames:.0f} frames) in {len(parts['train'])} recordings"
        )
    return _Splits(parts["train"], sorted(parts["valid"], key=_hash)[: config.held_out_tracks])


def _hash(source: Source) -> bytes:
    return hashlib.sha256(source.track_id.encode()).digest()


def _held_out(config: "Config", sounds: Sounds, sources: Sequence[Source]) -> list[torch.Tensor]:
    """The waveforms [1, C, N] to judge by."""
    found, problem = [], None
    length = round(config.held_out_seconds * config.network.sample_rate)
    for source in sources:
        try:
            wav = torch.from_numpy(sounds.read(source)[:, :length]).clone()
        except AudioError as error:
            problem = error
            continue
        if wav.abs().max() > 0 and wav.shape[1] >= config.network.hop:
            found.append(wav[None])
    if not found:
        raise ValueError(
            f"expected a held-out recording with sound in its first {config.held_out_seconds:g} s, got none in "
            f"{len(sources)}" + (f": {problem}" if problem else "")
        )
    return found


def _train(config: "Config", context: Context, training: CodecTraining, held_out: list[torch.Tensor]) -> Journal:
    """All steps, from where an earlier run of the same training was."""
    saved = load_state(context.scratch())
    journal = saved.journal if saved else Journal()
    names = [field.name for field in fields(CodecStep)]
    sums, count = torch.zeros(len(names), dtype=torch.float64), 0
    if saved:
        training.load(saved.tensors)
        for row in journal.rows:
            # JSON knows no tuples, and a map's items are to be tuples.
            row["metrics"] = [(name, value) for name, value in row["metrics"]]
        sums, count = saved.tensors[SUMS], int(saved.tensors[COUNT])
    steps = config.training.optimization.steps
    context.progress.start("training the codec", steps, "steps")
    context.progress.advance(training.step, "resumed" if saved else "")

    def save() -> None:
        save_state(context, training.state() | {SUMS: sums.clone(), COUNT: torch.tensor(count)}, journal)

    while training.step < steps:
        if context.stop.is_set():
            save()
        context.check_stopped()
        done = training.advance()
        sums += torch.tensor([getattr(done, name) for name in names], dtype=torch.float64)
        count += 1
        last = training.step == steps
        if training.step % config.log_every == 0 or last:
            means = dict(zip(names, (sums / count).tolist(), strict=True))
            row = {"step": training.step, "split": "train", "loss": means.pop("loss")}
            row |= {"learning_rate": done.learning_rate, "gradient_norm": means.pop("gradient_norm")}
            means.pop("learning_rate")
            journal.rows.append(row | {"metrics": list(means.items())})
            sums, count = torch.zeros_like(sums), 0
        if training.step > config.training.quantizer_start and (training.step % config.valid_every == 0 or last):
            quality = _named(_judge(training.trained(), context, held_out))
            journal.rows.append({"step": training.step, "split": "valid", "metrics": list(quality.items())})
        if training.step % config.save_every == 0 or last:
            save()
        context.progress.advance(1, f"loss {done.loss:.3f}")
    return journal


def _judge(network: EncodecModel, context: Context, held_out: Sequence[torch.Tensor]) -> CodecQuality:
    """Judge a network that is of no other use: a `Codec` changes its form."""
    return judge(Codec(network, context.device), held_out)


def _named(quality: CodecQuality, before: str = "", after: str = "") -> dict[str, float]:
    """The measures as metrics, a codebook's with its number from 1."""
    found = {"si_snr": quality.si_snr, "log_mel_distance": quality.log_mel_distance}
    for level, (used, perplexity) in enumerate(zip(quality.used, quality.perplexity, strict=True), start=1):
        found |= {f"codebook_{level}_used": used, f"codebook_{level}_perplexity": perplexity}
    prefix = f"{before}_" if before else ""
    return {f"{prefix}{name}{after}": value for name, value in found.items()}


def _export(
    config: "Config", context: Context, network: EncodecModel, metrics: Mapping[str, float], rows_seen: int
) -> dict:
    """Write the codec's folder, and give its row."""
    extractor = EncodecFeatureExtractor(
        feature_size=config.network.channels, sampling_rate=config.network.sample_rate, padding_value=0.0
    )
    path = f"models/{context.identity}"
    with context.store.new_folder(path) as folder:
        network.save_pretrained(folder)
        extractor.save_pretrained(folder)
        digest = folder_digest(folder)
    return {
        "checkpoint_id": context.identity,
        "kind": "codec",
        "path": path,
        "recipe": context.fingerprint,
        "parents": [],
        "data_digest": context.data_digest,
        "rows_seen": rows_seen,
        "steps": config.training.optimization.steps,
        "parameters": sum(value.numel() for value in network.parameters()),
        "digest": digest,
        "metrics": list(metrics.items()),
        "created_at": datetime.now(UTC),
    }
