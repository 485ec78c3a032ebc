"""Metadata that is text, through a table of vectors: a row for a whole label, or one for each word.

A row is found by hashing, so no vocabulary has to be kept, and a text that training never saw has its row as well
(K. Weinberger et al., "Feature hashing for large scale multitask learning", arXiv:0902.2206).
"""

import hashlib
import re
from collections.abc import Sequence

import torch
from torch import nn

from model.conditioning.config import LabelConfig, WordsConfig
from model.conditioning.prepared import PreparedTokens, project
from model.lm.language_model import Condition

PADDING = 0
"""Row of what is absent. The hash gives it to some text as well: only the mask tells them apart."""

WORD = re.compile(r"\w+(?:['’]\w+)*")
"""A run of letters and digits, with the apostrophes inside it. (AudioCraft parts words by spaCy's English model, and
spells digits out: both agree on plain words.)"""


def table_row(text: str, rows: int) -> int:
    """The row of a text: the SHA-256 of its UTF-8 bytes as an integer, modulo the table's size. Case counts."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big") % rows


def words(text: str) -> list[str]:
    """The words of a text in lower case, in order, without punctuation."""
    return WORD.findall(text.lower())


class TableConditioner(nn.Module):
    """Labels or words through a table and a projection: [B, 1, D] for labels, [B, most words, D] for words."""

    def __init__(self, config: LabelConfig | WordsConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Embedding(config.rows, config.width)
        self.projection = nn.Linear(config.width, width)

    def prepare(self, texts: Sequence[str | None]) -> PreparedTokens:
        """Find the rows. None is a null, as is a text without a word where words count; '' is a label like others."""
        found = [self._pieces(text) for text in texts]
        tokens = torch.full((len(texts), max([1, *map(len, found)])), PADDING)
        mask = torch.zeros_like(tokens, dtype=torch.bool)
        for item, pieces in enumerate(found):
            tokens[item, : len(pieces)] = torch.tensor([table_row(piece, self.config.rows) for piece in pieces])
            mask[item, : len(pieces)] = True
        return PreparedTokens(tokens, mask)

    def forward(self, prepared: PreparedTokens) -> Condition:
        """Vectors [B, L, D] of the rows."""
        return project(self.projection, self.table(prepared.tokens), prepared.mask)

    def _pieces(self, text: str | None) -> list[str]:
        if text is None:
            return []
        return [text] if self.config.kind == "label" else words(text)
