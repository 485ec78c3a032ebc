"""Words in queries: embedded by the CLAP that embedded the store's sounds, so one query finds the nearest sounds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from schemas.identity import WeightsRef
    from schemas.storage.store import Store

CLAP_FIELDS = {"scores": "clap", "clap": "model", "descriptions": "model"}
"""Tables with embeddings -> the knob of their stage that names the CLAP."""


def embed_words(store: "Store", words: Sequence[str], offline: bool = False) -> dict[str, list[float]]:
    """Embed words with the CLAP that made the embeddings in a store.

    Returns:
        The embedding of each text, of unit length.

    Raises:
        ValueError: the store has no embeddings, or it is unknown which CLAP made them; or the CLAP has no vocabulary.
        MissingWeights: the CLAP cannot be had.
    """
    from schemas.weights import WeightsLibrary
    from stages.networks.clap import load_joint_embedder
    from stages.networks.published import ROBERTA_VOCABULARY

    clap = _clap_of(store)
    library = WeightsLibrary(store, offline=offline)
    path = library.get(clap).path
    vocabulary = None if path.is_dir() else library.get(ROBERTA_VOCABULARY).path
    embeddings = load_joint_embedder(path, vocabulary=vocabulary).embed_text(words)
    return {text: embedding.tolist() for text, embedding in zip(words, embeddings, strict=True)}


def _clap_of(store: "Store") -> "WeightsRef":
    """Return the name of the CLAP that made the embeddings of a store; clips are looked at before tracks."""
    from schemas.storage.versions import Versions
    from schemas.tables import TABLES

    versions = Versions(store)
    for table, field in CLAP_FIELDS.items():
        for fingerprint in reversed(store.versions(TABLES[table])):
            version = versions.all.get(fingerprint)
            made_by = None if version is None else version.config.get(field)
            if made_by and (reference := versions.reference(made_by["weights"])) is not None:
                return reference
    raise ValueError(
        f"expected tracks or clips in {store.url} that a CLAP embedded, to compare words with, got none: run the stage "
        "clap, or evaluate with evaluate.clap"
    )
