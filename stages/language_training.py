"""How the stage `train` trains: examples drawn, steps taken, the state kept, the result judged and written.

Apart from the stage itself, which a plan reads, because this loads torch.
"""

import hashlib
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from model.music_model import MusicModel, drop_conditions
from model.objective import Batch, accumulate_gradients
from model.training import Optimization, step_seed
from schemas import WeightsRef
from schemas.weights import folder_digest
from stages.captions import drawn_caption
from stages.checkpoints.folder import CheckpointFacts, load_text_encoder, save_checkpoint
from stages.contract import Context, Whole
from stages.examples import Corpus, Window, tiled_windows
from stages.journal import Journal, load_state, save_state
from stages.judging import Judging, chance

if TYPE_CHECKING:
    from stages.train import Config

INITIAL_WEIGHTS, CONDITION_DROPOUT, DROPOUT = 0, 1, 2
"""What a seed is for; part of it, so that no two purposes share their draws."""

log = logging.getLogger(__name__)


def train_language_model(
    config: "Config", context: Context, tracks: pa.Table, chroma: pa.Table, clap: pa.Table, tokens: pa.Table
) -> Whole:
    """What the stage `train` does."""
    corpus = Corpus(tracks, chroma, clap, tokens)
    splits = split_tracks(corpus, config)
    _check(corpus, config, splits["train"])
    frames = segment_frames(corpus, config)
    shortest = max(1, round(config.smallest_share * frames))
    judges = {}
    for split in ("valid", "test"):
        windows = tiled_windows(corpus, splits[split], frames, shortest, config.held_out_windows)
        if windows:
            precision = config.optimization.precision
            judges[split] = Judging(corpus, windows, frames, config.micro_batch, precision)

    # Dropout draws from torch's own generator, which is seeded anew at every step and given back as it was.
    with torch.random.fork_rng():
        model = _initial_model(config, context)
        optimization = Optimization(model, config.optimization)
        journal = _train(config, context, corpus, splits["train"], model, optimization, judges.get("valid"))
        with optimization.averaged():
            metrics = {"uniform_cross_entropy": chance(corpus.cardinality)}
            for split, judge in judges.items():
                metrics |= judge.metrics(model, split, splits["train"])
            row = _export(config, context, corpus, model, metrics, rows_seen=len(splits["train"]))
    return Whole([row], also={"training": journal.training_rows(context.identity)})


def segment_frames(corpus: Corpus, config: "Config") -> int:
    """Frames of codes of one example."""
    return max(1, round(config.segment_seconds * corpus.frame_rate))


def split_tracks(corpus: Corpus, config: "Config") -> dict[str, list[int]]:
    """The positions of the tracks of each split that are long enough; a share of `train` is held out where `valid` is
    empty, the same tracks as long as they are there."""
    long_enough = [
        track for track, frames in enumerate(corpus.frames) if corpus.seconds(frames) >= config.shortest_seconds
    ]
    found = {
        split: [track for track in long_enough if corpus.splits[track] == split] for split in ("train", "valid", "test")
    }
    if not found["valid"] and len(found["train"]) > 1:
        ordered = sorted(found["train"], key=lambda track: hashlib.sha256(corpus.ids[track].encode()).digest())
        count = max(1, round(config.held_out_share * len(ordered)))
        found["valid"], found["train"] = sorted(ordered[:count]), sorted(ordered[count:])
        log.warning("the split valid is empty: %d of %d training tracks are held out", count, len(ordered))
    return found


def draw_batch(corpus: Corpus, tracks: Sequence[int], config: "Config", step: int) -> Batch:
    """The examples of one step: a function of the seed, the step and the number of the item alone."""
    frames = segment_frames(corpus, config)
    windows, attributes = [], []
    for item in range(config.batch):
        random = np.random.default_rng([config.seed, step, item])
        track = tracks[int(random.integers(len(tracks)))]
        last = max(0, int(corpus.frames[track]) - max(1, round(config.smallest_share * frames)))
        window = Window(track, int(random.integers(last + 1)))
        caption = drawn_caption(corpus.texts[track], config.captions, random)
        drops = random.random(3)
        found = corpus.attributes(window, frames, config.model, caption)
        found = replace(found, description=None) if drops[0] < config.description_dropout else found
        found = replace(found, chroma=None) if drops[1] < config.chroma_dropout else found
        found = replace(found, clap=None) if drops[2] < config.clap_dropout else found
        windows.append(window)
        attributes.append(found)
    generator = torch.Generator().manual_seed(step_seed(config.seed, step, CONDITION_DROPOUT))
    return corpus.batch(windows, frames, drop_conditions(attributes, config.condition_dropout, generator))


def _train(
    config: "Config",
    context: Context,
    corpus: Corpus,
    tracks: Sequence[int],
    model: MusicModel,
    optimization: Optimization,
    judge: Judging | None,
) -> Journal:
    """All steps, from where an earlier run of the same training was."""
    saved = load_state(context.scratch())
    journal = saved.journal if saved else Journal()
    if saved:
        optimization.load(saved.tensors)
    steps = config.optimization.steps
    context.progress.start("training", steps, "steps")
    context.progress.advance(optimization.step, "resumed" if saved else "")
    model.train()
    with ThreadPoolExecutor(max_workers=1) as reader:
        upcoming = reader.submit(draw_batch, corpus, tracks, config, optimization.step)
        while optimization.step < steps:
            if context.stop.is_set():
                save_state(context, optimization.state(), journal)
            context.check_stopped()
            began = time.perf_counter()
            batch = upcoming.result()
            upcoming = reader.submit(draw_batch, corpus, tracks, config, optimization.step + 1)
            torch.manual_seed(step_seed(config.seed, optimization.step, DROPOUT))
            codebooks = accumulate_gradients(model, batch, config.micro_batch, config.optimization.precision).tolist()
            update = optimization.update()
            step, last = optimization.step, optimization.step == steps
            journal.note(codebooks, corpus.codebooks * int(batch.lengths.sum()), time.perf_counter() - began)
            if step % config.log_every == 0 or last:
                journal.log_training(step, update)
            if judge and (step % config.valid_every == 0 or last):
                with optimization.averaged():
                    journal.log_held_out(step, "valid", judge.codebooks(model))
            if step % config.save_every == 0 or last:
                save_state(context, optimization.state(), journal)
            context.progress.advance(1, f"loss {sum(codebooks) / len(codebooks):.3f}")
    return journal


def _initial_model(config: "Config", context: Context) -> MusicModel:
    encoder, tokenizer = None, None
    if config.text_encoder is not None:
        encoder, tokenizer = load_text_encoder(context.weights(config.text_encoder).path)
    torch.manual_seed(step_seed(config.seed, 0, INITIAL_WEIGHTS))
    return MusicModel(config.model, encoder, tokenizer).to(context.device)


def _export(
    config: "Config", context: Context, corpus: Corpus, model: MusicModel, metrics: dict[str, float], rows_seen: int
) -> dict:
    """Write the checkpoint's folder, and give its row."""
    encoder, parents = config.text_encoder, []
    if encoder is not None and encoder.startswith("checkpoint:"):
        encoder = WeightsRef(f"checkpoint:{context.checkpoint(encoder)['checkpoint_id']}")
        parents = [encoder.removeprefix("checkpoint:")]
    learns = config.model.description is not None and config.model.description.finetune
    facts = CheckpointFacts(
        model=config.model,
        frame_rate=corpus.frame_rate,
        segment_seconds=config.segment_seconds,
        text_encoder=None if learns else encoder,
        text_encoder_digest=context.weights(encoder).digest if encoder else None,
        versions=dict(context.versions),
    )
    path = f"models/{context.identity}"
    with context.store.new_folder(path) as folder:
        save_checkpoint(folder, model, facts)
        digest = folder_digest(folder)
    return {
        "checkpoint_id": context.identity,
        "kind": "language_model",
        "path": path,
        "recipe": context.fingerprint,
        "parents": parents,
        "data_digest": context.data_digest,
        "rows_seen": rows_seen,
        "steps": config.optimization.steps,
        "parameters": sum(value.numel() for value in model.parameters() if value.requires_grad),
        "digest": digest,
        "metrics": list(metrics.items()),
        "created_at": datetime.now(UTC),
    }


def _check(corpus: Corpus, config: "Config", trained_on: Sequence[int]) -> None:
    """Everything that would make a training useless is told before it begins."""
    network = config.model.language_model
    if (network.codebooks, network.cardinality) != (corpus.codebooks, corpus.cardinality):
        raise ValueError(
            f"expected tokens of {network.codebooks} codebooks with {network.cardinality} codes, as "
            f"train.model.language_model says, got {corpus.codebooks} with {corpus.cardinality}"
        )
    if not trained_on:
        longest = corpus.seconds(int(corpus.frames.max()))
        raise ValueError(
            f"expected tracks of the split train that last at least {config.shortest_seconds} s, got "
            f"{corpus.splits.count('train')} of {len(corpus.ids)} tracks in it (the longest lasts {longest:.2f} s)"
        )
    frames, delay = segment_frames(corpus, config), max(network.codebook_delays)
    if frames <= delay:
        raise ValueError(f"expected segments longer than the largest delay of {delay} frames, got {frames} frames")
    missing = {
        "chroma": config.model.chroma is not None and not corpus.chroma.counts.any(),
        "clap": config.model.clap is not None and not corpus.embeddings.counts.any(),
    }
    for name in [name for name, nothing in missing.items() if nothing]:
        raise ValueError(f"expected rows in {name} for a model that reads {name}, got none for any track with tokens")
    if config.model.clap is not None and corpus.embeddings.values.shape[1] != config.model.clap.width:
        width = corpus.embeddings.values.shape[1]
        raise ValueError(f"expected joint embeddings of width {config.model.clap.width}, got {width}")
