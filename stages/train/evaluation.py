"""Held-out cross-entropy of a language model, and what it is to be compared with.

A model that learned music beats a model that knows only how often each code occurs; one that listens to its conditions
does better with the right ones than with none, and better with none than with those of another track.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from model.conditioning.captions import plain_caption
from model.music_model import Attributes, MusicModel
from model.objective import Batch, held_out_cross_entropy, unigram_cross_entropy
from model.optim.config import TrainingPrecision
from stages.train.examples import Corpus, TrackWindow, code_frequencies


@dataclass(frozen=True)
class Evaluator:
    """Fixed windows of held-out tracks, judged `items` at a time (texts of a batch are padded to one length, which the
    model can tell, so the number is part of the result)."""

    corpus: Corpus
    windows: Sequence[TrackWindow]
    frames: int
    items: int
    precision: TrainingPrecision

    def codebooks(
        self, model: MusicModel, conditions: Callable[[TrackWindow], Attributes] | None = None
    ) -> list[float]:
        """Each codebook's cross-entropy, nats, with the right conditions or with others."""
        return held_out_cross_entropy(model, self._batches(model, conditions), self.precision).tolist()

    def metrics(self, model: MusicModel, split: str, trained_on: Sequence[int]) -> dict[str, float]:
        """Everything that there is to say of a split, by the metric's name (`valid_cross_entropy` …), nats.

        Cross-entropy with the right conditions and of each codebook; with none (`_unconditional`); with those of
        another track (`_shuffled`), all together and, where the model reads several, one alone shuffled
        (`_shuffled_chroma` …); and of the model of code frequencies fitted on the tracks `trained_on` (`_unigram`).
        """
        name = f"{split}_cross_entropy"
        found = {f"{name}_codebook_{book}": value for book, value in enumerate(self.codebooks(model))}
        found[name] = _mean(found.values())
        found[f"{split}_windows"] = float(len(self.windows))
        frequencies = torch.from_numpy(code_frequencies(self.corpus, trained_on))
        unigram = unigram_cross_entropy(model.language_model, frequencies, self._batches(model, None))
        found[f"{name}_unigram"] = float(unigram.mean())
        names = model.config.conditions
        if names:
            found[f"{name}_unconditional"] = _mean(self.codebooks(model, lambda window: Attributes()))
        if names and len(self._tracks) > 1:
            found[f"{name}_shuffled"] = _mean(self.codebooks(model, lambda window: self._wrong(model, window)))
        if len(names) > 1 and len(self._tracks) > 1:
            for one in names:
                found[f"{name}_shuffled_{one}"] = _mean(
                    self.codebooks(model, lambda window, one=one: self._wrong(model, window, one))  # type: ignore[misc]
                )
        return found

    @property
    def _tracks(self) -> list[int]:
        return sorted({window.track for window in self.windows})

    def _right(self, model: MusicModel, window: TrackWindow) -> Attributes:
        text = plain_caption(self.corpus.metadata(window.track))
        return self.corpus.attributes(window, self.frames, model.config, text)

    def _wrong(self, model: MusicModel, window: TrackWindow, one: str | None = None) -> Attributes:
        """The conditions, or `one` of them, of the next track at the same time (or its last window)."""
        tracks = self._tracks
        other = tracks[(tracks.index(window.track) + 1) % len(tracks)]
        last = max(0, int(self.corpus.frames[other]) - self.frames)
        wrong = self._right(model, TrackWindow(other, min(window.start, last)))
        if one is None:
            return wrong
        right = self._right(model, window)
        if one in model.config.fields:
            told = {name: value for name, value in right.fields.items() if name != one}
            return replace(right, fields=told | {name: value for name, value in wrong.fields.items() if name == one})
        return replace(right, **{one: getattr(wrong, one)})

    def _batches(self, model: MusicModel, conditions: Callable[[TrackWindow], Attributes] | None) -> Iterator[Batch]:
        given = conditions or (lambda window: self._right(model, window))
        for start in range(0, len(self.windows), self.items):
            part = self.windows[start : start + self.items]
            yield self.corpus.batch(part, self.frames, [given(window) for window in part])


def uniform_cross_entropy(cardinality: int) -> float:
    """The cross-entropy of a model that knows nothing: every code equally likely, nats."""
    return math.log(cardinality)


def _mean(values) -> float:  # type: ignore[no-untyped-def]
    listed = list(values)
    return sum(listed) / len(listed)
