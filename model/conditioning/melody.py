"""Melodies: the chroma of each frame through a projection (MusicGen, arXiv:2306.05284, 2.2)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.chroma import PITCH_CLASSES, one_hot
from model.conditioning.config import MelodyConfig
from model.conditioning.prepared import PreparedVectors, project
from model.lm.language_model import Condition


class ChromaConditioner(nn.Module):
    """Melodies through a projection: [B, frames, D] where they are brought to one length, else [B, longest, D]."""

    def __init__(self, config: MelodyConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.projection = nn.Linear(PITCH_CLASSES, width)

    def prepare(self, melodies: Sequence[Float[Tensor, "..."] | None]) -> PreparedVectors:
        """Stack melodies [F, 12] of `config.frame_rate` frames a second, repeated, cut or padded as configured.

        None is a null. Raises ValueError for a melody that is empty or not [F, 12].
        """
        for melody in melodies:
            if melody is not None and (melody.ndim != 2 or melody.shape[1] != PITCH_CLASSES or not len(melody)):
                raise ValueError(f"expected a chroma [F, {PITCH_CLASSES}], got {list(melody.shape)}")
        most = self.config.frames
        if self.config.match_length:
            lengths = [0 if melody is None else most for melody in melodies]
        else:
            lengths = [0 if melody is None else min(most, len(melody)) for melody in melodies]
        longest = most if self.config.match_length else max([1, *lengths])
        vectors = torch.zeros(len(melodies), longest, PITCH_CLASSES)
        mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
        for item, (melody, length) in enumerate(zip(melodies, lengths, strict=True)):
            if melody is not None:
                seen = one_hot(melody) if self.config.one_hot else melody
                vectors[item, :length] = seen[torch.arange(length) % len(melody)]
            elif self.config.null == "first_bin":
                vectors[item, :, 0], mask[item] = 1.0, True
        return PreparedVectors(vectors, mask)

    def forward(self, prepared: PreparedVectors) -> Condition:
        """Vectors [B, L, D] of the frames."""
        return project(self.projection, prepared.vectors, prepared.mask)
