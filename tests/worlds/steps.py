"""A whole training step in one process, for tests that need gradients and no stage."""

from collections.abc import Sequence

from model.music_model import MusicModel
from model.objective import Batch, MicroBatch, loss_weights


def micro_batches_of(model: MusicModel, batch: Batch, items: int) -> Sequence[MicroBatch]:
    """Split a batch into micro-batches of `items` examples."""
    pieces = [range(len(batch.codes))[start : start + items] for start in range(0, len(batch.codes), items)]
    weights = loss_weights(model.language_model, batch.codes.shape[-1], batch.lengths, pieces)
    rows = [slice(piece.start, piece.stop) for piece in pieces]
    batches = [Batch(batch.codes[row], batch.lengths[row], batch.attributes[row]) for row in rows]
    return [MicroBatch(one, weight, seed) for seed, (one, weight) in enumerate(zip(batches, weights, strict=True))]
