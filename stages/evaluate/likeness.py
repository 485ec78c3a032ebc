"""Similarity of a clip to its description in CLAP's space: MusicGen's text relevance (arXiv:2306.05284, section 4,
"CLAP score")."""

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from schemas import WeightsRef
from stages.audio import DecodedAudio
from stages.networks.clap import load_joint_embedder
from stages.pipeline.contract import Context

Windows = Float[npt.NDArray[np.float32], "W E"]
"""Embeddings of a clip's windows, each of unit length."""

Embedding = Float[npt.NDArray[np.float32], " E"]

HOP_SECONDS = 10.0
"""Seconds from the start of one window of a clip to the next; windows do not overlap."""


class Likeness:
    """Embeds clips and words, by one CLAP model.

    Args:
        clap: the CLAP model that made the store's embeddings.
        vocabulary: RoBERTa's `tokenizer.json`, for the words of a LAION checkpoint.
    """

    def __init__(self, context: Context, clap: WeightsRef, vocabulary: WeightsRef | None) -> None:
        words, folder = context.weights(vocabulary).path if vocabulary else None, context.weights(clap).path
        self.embedder = context.borrow("clap", lambda: load_joint_embedder(folder, context.device, words))

    def embed(self, recording: DecodedAudio) -> Windows:
        """Return the embeddings of a clip's windows, each of unit length."""
        return self.embedder.embed_audio(recording.samples, recording.sample_rate, HOP_SECONDS).embeddings

    def embed_words(self, words: str | None) -> Embedding | None:
        """Return the embedding of words, of unit length; None if there are no words or the model cannot read words."""
        if not words or self.embedder.text is None:
            return None
        embedding: Embedding = self.embedder.embed_text([words])[0]
        return embedding


def mean_similarity(windows: Windows, words: Embedding | None) -> float | None:
    """Return the mean cosine similarity of a clip's windows and words; None if there is no embedding of words."""
    return None if words is None else float((windows @ words).mean())
