"""Checks of a store's tables before a training begins: a training that would be useless is refused."""

from collections.abc import Sequence

from stages.train.batches import segment_frames
from stages.train.config import CONDITION_TABLES, Config
from stages.train.corpus import Corpus
from stages.train.initial_model import InitialModel


def check_tables(corpus: Corpus, config: Config, trained_on: Sequence[int]) -> None:
    """Refuse a training that would be useless, before it begins.

    Raises:
        ValueError: the tables do not fit the recipe; the message says what was expected.
    """
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
    condition_vectors = {
        "chroma": corpus.chroma,
        "clap": corpus.embeddings,
        "beat": corpus.beats,
        "chords": corpus.chords,
    }
    for name, vectors in condition_vectors.items():
        if name in config.model.conditions and not vectors.present.any():
            table = CONDITION_TABLES[name].name
            raise ValueError(
                f"expected rows in {table} for a model that reads {name}, got none for any track with tokens"
            )
    width = corpus.embeddings.width
    if config.model.clap is not None and width != config.model.clap.width:
        raise ValueError(f"expected joint embeddings of width {config.model.clap.width}, got {width}")
    if "chroma" in network.sum and config.model.chroma is not None and 1 < config.model.chroma.frames < frames:
        raise ValueError(
            f"expected train.model.chroma.frames of {frames} or more, one melody frame for each frame of codes, "
            f"got {config.model.chroma.frames}"
        )


def check_codec(corpus: Corpus, config: Config, initial: InitialModel) -> None:
    """Refuse tokens of another codec than that of the checkpoint that training begins with: to its model they are
    noise.

    Raises:
        ValueError: the codec or the frame rate is another.
    """
    if initial.facts is None:
        return
    if initial.facts.frame_rate != corpus.frame_rate:
        raise ValueError(
            f"expected tokens of {initial.facts.frame_rate:g} frames a second, as train.initial = {config.initial} "
            f"uses, got {corpus.frame_rate:g}"
        )
    expected, got = initial.facts.codec, corpus.codec
    if expected is not None and got is not None and expected.identity != got.identity:
        raise ValueError(
            f"expected tokens of the codec {expected.reference or ''} (identity {expected.identity[:16]}…), which "
            f"train.initial = {config.initial} uses, got those of {got.reference or ''} (identity "
            f"{got.identity[:16]}…): set tokenize.codec to that codec"
        )


def check_fields(corpus: Corpus, config: Config, trained_on: Sequence[int], initial: InitialModel) -> None:
    """Refuse fields that no track has, because nothing could be learned from them. Fields that the initial checkpoint
    already reads are let through: a track may lack them, as a request may.

    Raises:
        ValueError: the checkpoint does not read a field, and no training track has it.
    """
    initial_fields = initial.facts.model.fields if initial.facts is not None else {}
    new_fields = [name for name in config.model.fields if name not in initial_fields]
    absent = [name for name in new_fields if not any(corpus.fields(track, [name]) for track in trained_on)]
    if absent:
        raise ValueError(
            f"expected {', '.join(absent)} in at least one track of the split train, because train.model.fields reads "
            f"it, got none in {len(trained_on)} tracks"
        )
