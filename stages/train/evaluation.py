"""Held-out cross-entropy of a language model, and the numbers to compare it with.

A model that learned music has a lower cross-entropy than one that knows only how often each code occurs. A model that
follows its conditions does better with the right conditions than with none, and better with none than with those of
another track.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from model.conditioning.captions import plain_caption
from model.music_model import Attributes, MusicModel
from model.objective import Batch, held_out_cross_entropy, unigram_cross_entropy
from model.optim.config import TrainingPrecision
from stages.train.corpus import Corpus, TrackWindow, code_frequencies


@dataclass(frozen=True)
class Evaluator:
    """Evaluates a model on fixed windows of held-out tracks, `batch_size` windows at a time.

    The batch size is part of the result: texts of a batch are padded to one length, and the padding changes what the
    model predicts.
    """

    corpus: Corpus
    windows: Sequence[TrackWindow]
    frames: int
    batch_size: int
    precision: TrainingPrecision

    def codebooks(
        self, model: MusicModel, conditions: Callable[[TrackWindow], Attributes] | None = None
    ) -> list[float]:
        """Return the cross-entropy of each codebook, nats.

        Args:
            conditions: gives the conditions of a window; None for the window's own.
        """
        losses: list[float] = held_out_cross_entropy(model, self._batches(model, conditions), self.precision).tolist()
        return losses

    def metrics(self, model: MusicModel, split: str, trained_on: Sequence[int]) -> dict[str, float]:
        """Return the metrics of a split by name (`valid_cross_entropy` …), nats.

        They are the cross-entropy with the right conditions, over all codebooks and of each; with no conditions
        (`_unconditional`); with the conditions of another track (`_shuffled`) and, where the model reads several
        conditions, with one of them taken from another track (`_shuffled_chroma` …); and that of the model of code
        frequencies counted on the tracks `trained_on` (`_unigram`).
        """
        name = f"{split}_cross_entropy"
        metrics = {f"{name}_codebook_{book}": value for book, value in enumerate(self.codebooks(model))}
        metrics[name] = _mean(metrics.values())
        metrics[f"{split}_windows"] = float(len(self.windows))
        frequencies = torch.from_numpy(code_frequencies(self.corpus, trained_on))
        unigram = unigram_cross_entropy(model.language_model, frequencies, self._batches(model, None))
        metrics[f"{name}_unigram"] = float(unigram.mean())
        conditions = model.config.conditions
        if conditions:
            metrics[f"{name}_unconditional"] = _mean(self.codebooks(model, lambda window: Attributes()))
        if conditions and len(self._tracks) > 1:
            metrics[f"{name}_shuffled"] = _mean(self.codebooks(model, partial(self._shuffled, model)))
        if len(conditions) > 1 and len(self._tracks) > 1:
            for condition in conditions:
                shuffled = partial(self._shuffled, model, only=condition)
                metrics[f"{name}_shuffled_{condition}"] = _mean(self.codebooks(model, shuffled))
        return metrics

    @property
    def _tracks(self) -> list[int]:
        return sorted({window.track for window in self.windows})

    def _right(self, model: MusicModel, window: TrackWindow) -> Attributes:
        text = plain_caption(self.corpus.metadata(window.track))
        return self.corpus.attributes(window, self.frames, model.config, text)

    def _shuffled(self, model: MusicModel, window: TrackWindow, only: str | None = None) -> Attributes:
        """Return conditions of the next track, at the same time or from its last window where it is shorter.

        Args:
            only: the one condition that is taken from the next track, the others being right; None takes all.
        """
        tracks = self._tracks
        other_track = tracks[(tracks.index(window.track) + 1) % len(tracks)]
        last = max(0, int(self.corpus.frames[other_track]) - self.frames)
        wrong = self._right(model, TrackWindow(other_track, min(window.start, last)))
        if only is None:
            return wrong
        right = self._right(model, window)
        if only in model.config.fields:
            kept = {name: value for name, value in right.fields.items() if name != only}
            return replace(right, fields=kept | {name: value for name, value in wrong.fields.items() if name == only})
        return replace(right, **{only: getattr(wrong, only)})

    def _batches(self, model: MusicModel, conditions: Callable[[TrackWindow], Attributes] | None) -> Iterator[Batch]:
        attributes_of = conditions or partial(self._right, model)
        for start in range(0, len(self.windows), self.batch_size):
            windows = self.windows[start : start + self.batch_size]
            yield self.corpus.batch(windows, self.frames, [attributes_of(window) for window in windows])


def uniform_cross_entropy(cardinality: int) -> float:
    """Return the cross-entropy of a model to which every code is equally likely, nats."""
    return math.log(cardinality)


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
