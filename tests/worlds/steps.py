"""A whole step of a training in one process, for what needs gradients and no stage."""

from collections.abc import Sequence

from model.music_model import MusicModel
from model.objective import Batch, Part, shares_of


def parts_of(model: MusicModel, batch: Batch, items: int) -> Sequence[Part]:
    """A batch as parts of so many examples."""
    pieces = [range(len(batch.codes))[start : start + items] for start in range(0, len(batch.codes), items)]
    shares = shares_of(model.language_model, batch.codes.shape[-1], batch.lengths, pieces)
    rows = [slice(piece.start, piece.stop) for piece in pieces]
    batches = [Batch(batch.codes[row], batch.lengths[row], batch.attributes[row]) for row in rows]
    return [Part(one, share, seed) for seed, (one, share) in enumerate(zip(batches, shares, strict=True))]
