"""Which examples a language model learns from: tracks by split, and the draws of each step.

Every draw is a function of the seed, the step and the item's number alone. So a training that resumes after a kill
draws what it would have drawn, and the items of a small batch are the first ones of a larger batch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from model.conditioning.captions import drawn_caption
from model.music_model import MusicModel, drop_attributes, drop_conditions
from model.objective import Batch, MicroBatch, loss_weights
from model.optim.train_state import step_seed
from stages.checkpoints.facts import count_segment_frames
from stages.pipeline.contract import Context
from stages.train.config import Config
from stages.train.corpus import Corpus, TrackWindow
from stages.train.distributed import Rank
from stages.train.tracks import split_positions

INITIAL_WEIGHTS, CONDITION_DROPOUT, DROPOUT, JOINT_CODEBOOKS = 0, 1, 2, 3
"""Purposes of seeds. The purpose is part of the seed, so that no two purposes share their draws."""

EmbedWords = Callable[[str], Float[Tensor, " E"]]
"""Embeds a text into the joint space."""


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """The work of one process in one step."""

    micro_batches: Sequence[MicroBatch]
    segment: int
    """Frames of each example, padding included."""
    frames: int
    """Frames of codes, without padding, in all micro-batches of the step, those of other processes included."""


def segment_frames(corpus: Corpus, config: Config) -> int:
    """Return the length of an example in frames of codes."""
    return count_segment_frames(config.segment_seconds, corpus.frame_rate)


def shortest_window(corpus: Corpus, config: Config) -> int:
    """Return how many frames of an example its track must fill at least; the rest may be padding."""
    return max(1, round(config.smallest_share * segment_frames(corpus, config)))


def split_tracks(corpus: Corpus, config: Config) -> dict[str, list[int]]:
    """Return the positions in the corpus of the tracks of each split, as `split_positions` chooses them."""
    seconds = [corpus.seconds(int(frames)) for frames in corpus.frames]
    return split_positions(corpus.ids, corpus.splits, seconds, config)


def draw_examples(
    corpus: Corpus,
    tracks: Sequence[int],
    config: Config,
    step: int,
    embed_words: EmbedWords | None = None,
    items: range | None = None,
) -> Batch:
    """Draw the examples of one step.

    Args:
        tracks: positions in the corpus of the tracks to draw from, uniformly.
        embed_words: embeds captions, where `config.joint_text` is above 0.
        items: numbers of the examples to draw; None draws all.
    """
    frames = segment_frames(corpus, config)
    windows, attributes = [], []
    for item in items or range(config.batch_size):
        drawn = _draw_window(corpus, tracks, config, step, item)
        caption = drawn_caption(corpus.metadata(drawn.window.track), config.captions, drawn.random)
        conditions = corpus.attributes(drawn.window, frames, config.model, caption)
        if embed_words is not None and drawn.random.random() < config.joint_text and caption is not None:
            conditions = replace(conditions, clap=embed_words(caption))
        generator = torch.Generator().manual_seed(step_seed(config.seed, step, CONDITION_DROPOUT, item))
        kept = drop_attributes([conditions], config.dropouts, generator)
        attributes += drop_conditions(kept, config.all_dropout, generator)
        windows.append(drawn.window)
    return corpus.batch(windows, frames, attributes)


def draw_batch(
    corpus: Corpus,
    tracks: Sequence[int],
    config: Config,
    model: MusicModel,
    rank: Rank,
    step: int,
    embed_words: EmbedWords | None = None,
) -> TrainingBatch:
    """Draw the micro-batches of a step that one process works on, every `rank.world_size`-th, prepared for the device
    of `model`.

    For the other micro-batches only the windows are drawn: the weight of a micro-batch depends on how many codes the
    whole step has. In a sharded training all processes must work on the same number of micro-batches: a process that
    has fewer repeats its last one with weight 0.
    """
    windows = [_draw_window(corpus, tracks, config, step, item).window for item in range(config.batch_size)]
    frames = segment_frames(corpus, config)
    lengths = torch.tensor([min(frames, int(corpus.frames[window.track]) - window.start) for window in windows])
    items = [
        range(config.batch_size)[start : start + config.micro_batch_size]
        for start in range(0, config.batch_size, config.micro_batch_size)
    ]
    weights = loss_weights(model.language_model, frames, lengths, items)
    micro_batches, with_branches = [], config.distill_guidance is not None
    for number in range(rank.number, len(items), rank.world_size):
        batch = draw_examples(corpus, tracks, config, step, embed_words, items[number])
        seed = step_seed(config.seed, step, DROPOUT, number)
        micro_batches.append(MicroBatch(batch.prepared(model, with_branches), weights[number], seed))
    if rank.fully_sharded and len(micro_batches) < math.ceil(len(items) / rank.world_size):
        last = micro_batches[-1]
        micro_batches.append(replace(last, loss_weights=torch.zeros_like(last.loss_weights)))
    return TrainingBatch(micro_batches, segment=frames, frames=int(lengths.sum()))


@dataclass(frozen=True, eq=False)
class _DrawnWindow:
    """The window of an example, and the generator that the rest of the example is drawn from."""

    window: TrackWindow
    random: np.random.Generator


def _draw_window(corpus: Corpus, tracks: Sequence[int], config: Config, step: int, item: int) -> _DrawnWindow:
    random = np.random.default_rng([config.seed, step, item])
    track = tracks[int(random.integers(len(tracks)))]
    last = max(0, int(corpus.frames[track]) - shortest_window(corpus, config))
    return _DrawnWindow(TrackWindow(track, int(random.integers(last + 1))), random)


def word_embedder(config: Config, context: Context) -> EmbedWords | None:
    """Return the function that embeds captions; None where the recipe does not ask for it.

    Generation embeds words with the same function. Its results are not cached, because captions are drawn again each
    time.

    Raises:
        ValueError: the weights are not a joint embedding, read no words, or give another width than the model reads.
        MissingWeights: the weights cannot be fetched.
    """
    if config.clap is None:
        return None
    from stages.networks.clap import load_joint_embedder  # imports what reads sound, which other trainings do not need

    vocabulary = context.weights(config.vocabulary).path if config.vocabulary else None
    embedder = load_joint_embedder(context.weights(config.clap).path, context.device, vocabulary)
    if embedder.text is None:
        raise ValueError(
            f"expected train.vocabulary, with which the LAION checkpoint {config.clap} reads words, got none"
        )

    def embed(words: str) -> Float[Tensor, " E"]:
        return torch.from_numpy(embedder.embed_text([words])[0])

    assert config.model.clap is not None
    width = len(embed("music"))
    if width != config.model.clap.width:
        raise ValueError(
            f"expected joint embeddings of width {config.model.clap.width}, as train.model.clap says, got {width} of "
            f"train.clap = {config.clap}"
        )
    return embed
