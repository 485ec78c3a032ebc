"""The training of the stage `train`: examples drawn, steps taken, the state saved, the result evaluated and written.

It is a module of its own because it loads torch, and a plan imports the stage. The loop waits for the device only where
something is done every few steps: until then losses stay on the device, and the host goes on to the next step.
Meanwhile one thread draws, tokenises and stacks the examples of the next step.
"""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from model.kernels.float32_products import choose_products
from model.music_model import MusicModel
from model.objective import LossModule, accumulate_gradients
from model.optim.mfu import matmul_rate, training_flops
from model.optim.precision import is_single
from model.optim.train_state import TrainState, check_moved, step_seed
from schemas.tables import TRACKS
from schemas.weights import folder_digest
from stages.checkpoints.adapter_files import ADAPTER
from stages.checkpoints.facts import CheckpointFacts
from stages.checkpoints.model_card import ModelCard, card_text, literal, write_card
from stages.checkpoints.native import save_checkpoint
from stages.checkpoints.provenance import tracks_to_learn
from stages.checkpoints.rows import TrainingSummary, checkpoint_row, model_folder
from stages.checkpoints.training_log import TrainingLog
from stages.pipeline.contract import Context, ReduceResult
from stages.pipeline.kernel_file import KernelFile
from stages.train import saving
from stages.train.batches import (
    JOINT_CODEBOOKS,
    TrainingBatch,
    draw_batch,
    segment_frames,
    shortest_window,
    split_tracks,
    word_embedder,
)
from stages.train.checks import check_codec, check_fields, check_tables
from stages.train.config import Config
from stages.train.corpus import Corpus, tiled_windows
from stages.train.data_report import DataReport, data_report
from stages.train.distillation import guided_teacher
from stages.train.distributed import Rank
from stages.train.evaluation import Evaluator, uniform_cross_entropy
from stages.train.following import process_count, run_together
from stages.train.initial_model import InitialModel, initial_model
from stages.train.pace import TrainingPace, newest_utilisation
from stages.train.packing import PACKED, open_packed, pack_table
from stages.train.samples import Sampler
from stages.train.sharding import WholeModel, gather_model, is_to_be_sharded, shard_model
from stages.train.tracks import METADATA
from stages.train.validation import Validation

READ_EVERY = {"cpu": 1, "cuda": 10}
"""Most steps between two reads of losses and gradients, which wait for the device; a CPU computes at once, so there
every step is read."""


def train_language_model(config: Config, context: Context) -> ReduceResult:
    """Do the work of the stage `train`, in as many processes as the settings say. First show what is learned from."""
    report = data_report(config, context)
    report.remark(context.remarks)
    context.progress.tell(report.lines())
    count = process_count(context, most=math.ceil(config.batch_size / config.micro_batch_size))
    work = partial(_train_process, config, report)
    result = work(context, Rank()) if count == 1 else run_together(work, context, count)
    assert result is not None
    return result


def _train_process(config: Config, report: DataReport, context: Context, rank: Rank) -> ReduceResult | None:
    """Train in one of the processes. The first process evaluates, writes the result, and returns it; the others return
    None."""
    _prepare_machine(context, rank)
    tracks = context.rows(TRACKS, ["track_id", "split", *METADATA])
    corpus = Corpus(tracks, *(open_packed(context, table, column) for table, column in PACKED))
    splits = split_tracks(corpus, config)
    check_tables(corpus, config, splits["train"])
    learned = tracks_to_learn(context, [corpus.ids[track] for track in splits["train"]], config.licences)
    frames, shortest = segment_frames(corpus, config), shortest_window(corpus, config)
    evaluators = {}
    for split in ("valid", "test"):
        windows = tiled_windows(corpus, splits[split], frames, shortest, config.held_out_windows)
        if windows:
            precision = config.optimization.precision
            evaluators[split] = Evaluator(corpus, windows, frames, config.micro_batch_size, precision)

    # Dropout draws from torch's own generator: it is seeded again for every micro-batch, and its state is restored at
    # the end.
    with torch.random.fork_rng([torch.cuda.current_device()] if context.device == "cuda" else []):
        initial = initial_model(config, context)
        check_codec(corpus, config, initial)
        check_fields(corpus, config, splits["train"], initial)
        _start_joint_codebooks(corpus, config, initial.model, splits["train"])
        loss_module = LossModule(initial.model, config.optimization.precision, guided_teacher(config, context, initial))
        if is_single(torch.device(context.device), config.optimization.precision) and not config.compile:
            choose_products(initial.model, KernelFile())
        whole = None
        if is_to_be_sharded(config, context, rank, initial.model):
            whole = WholeModel(initial.model) if config.samples is not None else None
            rank = shard_model(loss_module, context.device, rank)
        else:
            initial.model.to(context.device)
            if config.compile:
                initial.model.language_model.transformer.compile_layers()
        embed_words = word_embedder(config, context)
        draw = partial(draw_batch, corpus, splits["train"], config, initial.model, rank, embed_words=embed_words)
        train_state = TrainState(initial.model, config.optimization, initial.model.hidden_matrices, rank.replicas)
        sampler = Sampler(config, context, corpus, splits["valid"], initial, frames, rank, whole)
        validation = _take_steps(
            config, context, rank, draw, loss_module, train_state, evaluators.get("valid"), sampler
        )
        if not rank.evaluates:
            return None
        context.progress.tell(list(validation.tell()))
        validation.remark(context.remarks)
        with validation.kept_weights():
            metrics = {"uniform_cross_entropy": uniform_cross_entropy(corpus.cardinality)}
            for split, evaluator in evaluators.items():
                metrics |= evaluator.metrics(initial.model, split, splits["train"])
            metrics |= validation.metrics()
            sampler.make(validation.kept_step, validation.training_log)
            gather_model(initial.model, rank)
            if not rank.is_main:
                return None
            row = _export_checkpoint(config, context, corpus, report, initial, metrics, learned, validation.kept_step)
    log = validation.training_log
    also = {"training": log.training_rows(context.identity), "samples": sampler.rows(log)}
    return ReduceResult([row], also={name: rows for name, rows in also.items() if rows})


def _prepare_machine(context: Context, rank: Rank) -> None:
    """Pack the tables and fetch the saved state on each machine before any process reads them. The run does it first:
    where machines share a folder, the others then find it done."""
    for is_turn in (rank.is_main, rank.local_number == 0):
        if is_turn:
            for table, column in PACKED:
                pack_table(context, table, column)
            saving.fetch(context)
        rank.wait_for_others()


def _start_joint_codebooks(corpus: Corpus, config: Config, model: MusicModel, trained_on: Sequence[int]) -> None:
    """Fill the codebooks of joint embeddings from the embeddings of the training tracks, where the model has codebooks
    that are still empty."""
    if model.clap is not None and not model.clap.started:
        embeddings = np.concatenate([corpus.embeddings.of(track) for track in trained_on if track in corpus.embeddings])
        generator = torch.Generator().manual_seed(step_seed(config.seed, 0, JOINT_CODEBOOKS))
        model.clap.start(torch.from_numpy(embeddings), generator)


def _take_steps(
    config: Config,
    context: Context,
    rank: Rank,
    draw: Callable[[int], TrainingBatch],
    loss_module: LossModule,
    train_state: TrainState,
    evaluator: Evaluator | None,
    sampler: Sampler,
) -> Validation:
    """Take the steps that are left, from where an earlier run of this training ended, and return the validations.

    Training ends before its last step where the recipe has `early_stop` and held-out tracks stop improving.

    Args:
        draw: returns what this process works on in a step.
        loss_module: the model with its loss.
        evaluator: makes the validations; None without held-out tracks.
        sampler: makes the samples.

    Raises:
        ValueError: too many updates in a row had gradients that were not finite.
        Stopped: the run was asked to stop; the state is saved.
    """
    saved = saving.load(context, rank, train_state)
    training_log = saved.training_log if saved else TrainingLog()
    validation = Validation(
        config, evaluator, loss_module.model, train_state, training_log, rank, saved.best if saved else {}
    )
    model, steps, precision = loss_module.model, config.optimization.steps, config.optimization.precision
    context.progress.start("training", steps, "steps")
    if saved:
        context.progress.resume(train_state.updates)
    multiplied = torch.float32 if is_single(model.device, precision) else torch.bfloat16
    rate = rank.world_size * matmul_rate(model.device, multiplied)
    distributed = rank.distributed(loss_module)
    left = steps - train_state.updates
    pace = TrainingPace(context.progress, left, validation.count_left(left))
    if rank.evaluates:
        started = time.perf_counter()
        validation.run_initial()
        pace.note_validation(time.perf_counter() - started)
        if not train_state.updates:
            sampler.make(0, training_log)
    model.train()
    with ThreadPoolExecutor(max_workers=1) as reader:
        upcoming = reader.submit(draw, train_state.updates)
        if rank.is_main:
            pace.guess(_step_flops(config, upcoming.result()), rate, newest_utilisation(context))
        unread, note = _UnreadLosses(training_log, rank, pace), ""
        while train_state.updates < steps and not (config.early_stop and rank.any_flag(validation.should_stop)):
            if rank.any_flag(context.stop.is_set()):
                unread.read()
                saving.save(context, rank, train_state, validation.best, training_log)
                context.stop.set()
                context.check_stopped()
            batch = upcoming.result()
            upcoming = reader.submit(draw, train_state.updates + 1)
            losses = accumulate_gradients(distributed, batch.micro_batches)
            stats = train_state.step()
            rank.broadcast_buffers(train_state.buffers.values())
            unread.add(losses, len(losses) * batch.frames, _step_flops(config, batch))
            step, last = train_state.updates, train_state.updates == steps
            logs, saves = (step % every == 0 or last for every in (config.log_every, config.save_every))
            validates = validation.is_due(step) or last
            makes_samples = sampler.is_due(step)
            if logs or validates or saves or makes_samples or len(unread.losses) == READ_EVERY[model.device.type]:
                train_state.check_finite()
                note = f"loss {unread.read():.3f}"
            if logs:
                training_log.log_training(step, stats, rate)
            if validates and rank.evaluates:
                validation.run(step)
            if makes_samples:
                with train_state.averaged():
                    sampler.make(step, training_log)
            if saves:
                saving.save(context, rank, train_state, validation.best, training_log)
            if validates or saves or makes_samples:
                unread.since = time.perf_counter()  # this time was not spent on training
            context.progress.advance(1, note)
    return validation


def _step_flops(config: Config, batch: TrainingBatch) -> int:
    """Count the floating-point operations of a step in all processes."""
    frozen = config.lora is not None
    return config.batch_size * training_flops(config.model.language_model, batch.segment, frozen)


@dataclass
class _UnreadLosses:
    """Steps whose losses are still on the device."""

    training_log: TrainingLog
    rank: Rank
    pace: TrainingPace
    losses: list[Tensor] = field(default_factory=list)
    """For each step this process's share of the loss of each codebook, [K]."""
    tokens: int = 0
    flops: int = 0
    since: float = field(default_factory=time.perf_counter)

    def add(self, losses: Tensor, tokens: int, flops: int) -> None:
        self.losses.append(losses)
        self.tokens, self.flops = self.tokens + tokens, self.flops + flops

    def read(self) -> float:
        """Wait for the device, log the losses, and return the mean loss of the newest step."""
        if not self.losses:
            return float("nan")
        codebooks: list[list[float]] = self.rank.all_reduce(torch.stack(self.losses)).tolist()
        now = time.perf_counter()
        self.training_log.note(codebooks, self.tokens, self.flops, now - self.since)
        if self.rank.is_main:
            self.pace.note(len(codebooks), now - self.since)
        self.losses, self.tokens, self.flops, self.since = [], 0, 0, now
        return sum(codebooks[-1]) / len(codebooks[-1])


def _export_checkpoint(
    config: Config,
    context: Context,
    corpus: Corpus,
    report: DataReport,
    initial: InitialModel,
    metrics: dict[str, float],
    learned: pa.Table,
    steps: int,
) -> dict[str, Any]:
    """Write the checkpoint's folder, and return its row. Low-rank updates are merged into the model.

    Args:
        steps: updates that the weights have had.
    """
    facts = CheckpointFacts(
        model=config.model,
        frame_rate=corpus.frame_rate,
        segment_seconds=config.segment_seconds,
        text_encoder=initial.text_encoder,
        text_encoder_digest=initial.text_encoder_digest,
        versions=dict(context.versions),
        codec=corpus.codec,
        distilled_guidance=config.distill_guidance and config.distill_guidance.coefficient,
    )
    trainable = sum(value.numel() for value in initial.model.parameters() if value.requires_grad)
    with context.store.new_folder(model_folder(context.identity)) as folder:
        if config.lora is not None:
            from stages.train.lora import merge_adapter, save_adapter

            save_adapter(initial.model, folder / ADAPTER)
            merge_adapter(initial.model)
        check_moved(initial.checksums, initial.model, config.optimization)
        save_checkpoint(folder, initial.model, facts, initial.codec if corpus.codec else None)
        card = _card(config, context, report, initial, metrics, steps)
        write_card(folder, card_text(card, facts, "segue", context.identity))
        digest = folder_digest(folder)
    summary = TrainingSummary(steps, trainable, learned.num_rows, metrics | report.metrics())
    is_adapter = config.lora is not None and not config.lora.conditioners
    adapter = (config.adapter or context.identity) if is_adapter else None
    return checkpoint_row(
        context, context.identity, "language_model", digest, summary, initial.parents, learned, adapter
    )


def _card(
    config: Config, context: Context, report: DataReport, initial: InitialModel, metrics: dict[str, float], steps: int
) -> ModelCard:
    """Return the card's content beside the facts of the folder: what the model was taught, how good it is, and where it
    comes from."""
    origin = [
        f"checkpoint `{context.identity}`, {steps:,} steps of {config.batch_size} examples",
        f"recipe `{context.fingerprint}`, data `{context.data_digest}`",
    ]
    base_model = None
    if config.initial is not None:
        origin.append(f"trained further from {literal(str(config.initial))}")
        base_model = config.initial.hub_model
    origin += [f"made with the checkpoint {literal(parent)}" for parent in initial.parents]
    return ModelCard(
        name=f"Segue language model {context.identity}",
        data=report.card_items(),
        licences=report.licence_items(),
        metrics=metrics,
        origin=origin,
        base_model=base_model,
    )
