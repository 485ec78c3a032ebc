"""How the stage `train` trains: examples drawn, steps taken, the state kept, the result judged and written.

Apart from the stage itself, which a plan reads, because this loads torch.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from model.music_model import MusicModel
from model.optim.train_state import TrainState, step_seed
from schemas.tables import CHROMA, CLAP, TOKENS, TRACKS
from schemas.weights import folder_digest
from stages.checkpoints.facts import CheckpointFacts
from stages.checkpoints.native import save_checkpoint
from stages.checkpoints.rows import TrainingSummary, checkpoint_row, model_folder
from stages.pipeline.contract import Context, ReduceResult
from stages.train.batches import JOINT_CODEBOOKS, draw_batch, segment_frames, split_tracks, word_embedder
from stages.train.config import Config
from stages.train.evaluation import Evaluator, uniform_cross_entropy
from stages.train.examples import METADATA, Corpus, tiled_windows
from stages.train.initial_model import InitialModel, initial_model
from stages.train.loop import take_steps
from stages.train.packing import open_packed, pack_table
from stages.train.processes import process_count, run_together
from stages.train.ranks import Rank

PACKED = ((CHROMA, "chroma"), (CLAP, "embeddings"), (TOKENS, "codes"))
"""Tables that may be larger than memory, and the column of each that makes it large."""

ADAPTER = "adapter"
"""Where a checkpoint's folder keeps the low-rank updates that are merged into its weights."""


def train_language_model(config: Config, context: Context) -> ReduceResult:
    """What the stage `train` does, in as many processes as the settings say."""
    for table, column in PACKED:
        pack_table(context, table, column)
    count = process_count(context, most=math.ceil(config.batch_size / config.micro_batch_size))
    work = partial(_take_part, config)
    made = work(context, Rank()) if count == 1 else run_together(work, context, count)
    assert made is not None
    return made


def _take_part(config: Config, context: Context, rank: Rank) -> ReduceResult | None:
    """What each process does. The first one judges and writes what became of it."""
    tracks = context.rows(TRACKS, ["track_id", "split", *METADATA])
    corpus = Corpus(tracks, *(open_packed(context, table, column) for table, column in PACKED))
    splits = split_tracks(corpus, config)
    _check(corpus, config, splits["train"])
    frames = segment_frames(corpus, config)
    shortest = max(1, round(config.smallest_share * frames))
    evaluators = {}
    for split in ("valid", "test"):
        windows = tiled_windows(corpus, splits[split], frames, shortest, config.held_out_windows)
        if windows:
            precision = config.optimization.precision
            evaluators[split] = Evaluator(corpus, windows, frames, config.micro_batch_size, precision)

    # Dropout draws from torch's own generator, which is seeded anew for every part and given back as it was.
    with torch.random.fork_rng([torch.cuda.current_device()] if context.device == "cuda" else []):
        initial = initial_model(config, context)
        _check_codec(corpus, config, initial)
        _start_joint_codebooks(corpus, config, initial.model, splits["train"])
        embed_words = word_embedder(config, context)
        draw = partial(draw_batch, corpus, splits["train"], config, initial.model, rank, embed_words=embed_words)
        train_state = TrainState(initial.model, config.optimization)
        training_log = take_steps(config, context, rank, draw, initial.model, train_state, evaluators.get("valid"))
        if not rank.is_main:
            return None
        with train_state.averaged():
            metrics = {"uniform_cross_entropy": uniform_cross_entropy(corpus.cardinality)}
            for split, evaluator in evaluators.items():
                metrics |= evaluator.metrics(initial.model, split, splits["train"])
            row = _export(config, context, corpus, initial, metrics, rows_seen=len(splits["train"]))
    return ReduceResult([row], also={"training": training_log.training_rows(context.identity)})


def _start_joint_codebooks(corpus: Corpus, config: Config, model: MusicModel, trained_on: Sequence[int]) -> None:
    """Fill the codebooks of joint embeddings, where a model has some that are empty, from those it will learn from."""
    if model.clap is not None and not model.clap.started:
        embeddings = np.concatenate([corpus.embeddings.of(track) for track in trained_on if track in corpus.embeddings])
        generator = torch.Generator().manual_seed(step_seed(config.seed, 0, JOINT_CODEBOOKS))
        model.clap.start(torch.from_numpy(embeddings), generator)


def _export(
    config: Config, context: Context, corpus: Corpus, initial: InitialModel, metrics: dict[str, float], rows_seen: int
) -> dict[str, Any]:
    """Write the checkpoint's folder, and give its row. An adapted model is a plain one after this."""
    facts = CheckpointFacts(
        model=config.model,
        frame_rate=corpus.frame_rate,
        segment_seconds=config.segment_seconds,
        text_encoder=initial.text_encoder,
        text_encoder_digest=initial.text_encoder_digest,
        versions=dict(context.versions),
        codec=corpus.codec,
    )
    learned = sum(value.numel() for value in initial.model.parameters() if value.requires_grad)
    with context.store.new_folder(model_folder(context.identity)) as folder:
        if config.lora is not None:
            from stages.train.lora import merge, save_adapter

            save_adapter(initial.model, folder / ADAPTER)
            merge(initial.model)
        save_checkpoint(folder, initial.model, facts, initial.codec if corpus.codec else None)
        digest = folder_digest(folder)
    summary = TrainingSummary(config.optimization.steps, learned, rows_seen, metrics)
    return checkpoint_row(context, context.identity, "language_model", digest, summary, initial.parents)


def _check(corpus: Corpus, config: Config, trained_on: Sequence[int]) -> None:
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
        "chroma": config.model.chroma is not None and not corpus.chroma.given.any(),
        "clap": config.model.clap is not None and not corpus.embeddings.given.any(),
    }
    for name in [name for name, nothing in missing.items() if nothing]:
        raise ValueError(f"expected rows in {name} for a model that reads {name}, got none for any track with tokens")
    width = corpus.embeddings.width
    if config.model.clap is not None and width != config.model.clap.width:
        raise ValueError(f"expected joint embeddings of width {config.model.clap.width}, got {width}")
    if "chroma" in network.sum and config.model.chroma is not None and 1 < config.model.chroma.frames < frames:
        raise ValueError(
            f"expected train.model.chroma.frames of {frames} or more, a melody frame for every frame of codes to be "
            f"added to, got {config.model.chroma.frames}"
        )
    untold = [name for name in config.model.fields if not any(corpus.fields(track, [name]) for track in trained_on)]
    if untold:
        raise ValueError(
            f"expected {', '.join(untold)} of at least one track of the split train, as train.model.fields reads it, "
            f"got none in {len(trained_on)} tracks"
        )


def _check_codec(corpus: Corpus, config: Config, initial: InitialModel) -> None:
    """Tokens of another codec than that of the checkpoint which training begins with are noise to it."""
    if initial.facts is None:
        return
    if initial.facts.frame_rate != corpus.frame_rate:
        raise ValueError(
            f"expected tokens of {initial.facts.frame_rate:g} frames a second, as train.initial = {config.initial} "
            f"speaks, got {corpus.frame_rate:g}"
        )
    theirs, ours = initial.facts.codec, corpus.codec
    if theirs is not None and ours is not None and theirs.identity != ours.identity:
        raise ValueError(
            f"expected tokens of the codec {theirs.reference or ''} (identity {theirs.identity[:16]}…), which "
            f"train.initial = {config.initial} speaks, got those of {ours.reference or ''} (identity "
            f"{ours.identity[:16]}…): let tokenize.codec be that codec"
        )
