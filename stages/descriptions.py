"""Descriptions: CLAP's embedding of each track's description, in the same space as those of sounds (arXiv:2211.06687,
3.1), so that one query finds what is most similar to a description."""

from collections.abc import Callable, Iterator

import pyarrow as pa

import schemas
from schemas import WeightsRef
from schemas.tables import DESCRIPTIONS, TRACKS
from schemas.weights import LocalWeights
from stages.networks.published import LAION_CLAP, ROBERTA_VOCABULARY
from stages.pipeline.contract import Context, Dependencies, Shard

READS, WRITES, VERSION = (TRACKS,), DESCRIPTIONS, 1
REPEATS = {TRACKS: ("description",)}

TEXTS_AT_ONCE = 32
"""Descriptions between two checks whether the run was asked to stop."""


class Config(schemas.Config):
    """Which model embeds."""

    model: WeightsRef | None = LAION_CLAP
    """A LAION checkpoint (`.pt`) or a folder of `transformers.ClapModel`; in a recipe it is `clap.model` unless it is
    given. None makes no such table."""
    vocabulary: WeightsRef | None = ROBERTA_VOCABULARY
    """RoBERTa's vocabulary, with which a LAION checkpoint reads words; in a recipe it is `clap.vocabulary` unless it is
    given. A model folder has its own."""


def dependencies(config: Config, weights: Callable[[WeightsRef], LocalWeights]) -> Dependencies:
    """Return what the embeddings depend on; without a model the vocabulary is left out."""
    return Dependencies(config if config.model else config.model_copy(update={"vocabulary": None}), ())


def shard(config: Config, context: Context, tracks: pa.Table) -> Iterator[Shard]:
    """Embed the descriptions of one shard's tracks. A track without a description has a row without an embedding.

    Raises:
        ValueError: the model came without a vocabulary.
        MissingWeights: the model or the vocabulary cannot be fetched.
    """
    from stages.networks.clap import load_joint_embedder  # imports torch, which a plan does not need

    if config.model is None:
        raise ValueError("expected descriptions.model to embed descriptions with, got none")
    vocabulary = context.weights(config.vocabulary).path if config.vocabulary else None
    embedder = load_joint_embedder(context.weights(config.model).path, context.device, vocabulary)
    rows = tracks.select(["track_id", "description"]).to_pylist()
    context.progress.start("descriptions", len(rows), "tracks")
    for first in range(0, len(rows), TEXTS_AT_ONCE):
        context.check_stopped()
        group = rows[first : first + TEXTS_AT_ONCE]
        described = [row for row in group if row["description"]]
        if described:
            embeddings = embedder.embed_text([row["description"] for row in described])
            for row, embedding in zip(described, embeddings, strict=True):
                row["description_embedding"] = embedding
        context.progress.advance(len(group))
        yield Shard(group)
