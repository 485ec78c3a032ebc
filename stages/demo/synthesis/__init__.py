"""Synthesised music about which everything is known: the demo corpus of the `miniature` preset.

Read the files in this order: score, composition, captions (what is played), rendering (how it sounds). `compose(seed,
index)` makes a piece, `render(piece)` its stems, `caption(piece, variant)` a sentence about it. Only `render` needs
torch, so it is imported from `stages.demo.synthesis.rendering`."""

from stages.demo.synthesis.captions import caption
from stages.demo.synthesis.composition import compose
from stages.demo.synthesis.score import Chord, Hit, Note, Piece

__all__ = ["Chord", "Hit", "Note", "Piece", "caption", "compose"]
