"""Sentences about a piece, like those of people who upload music. Each names some of what can be heard, in varied order
and words, so that a text model learns the words and not one template."""

import random
import re

from stages.demo.synthesis.score import Piece

TEMPLATES = (
    "A {mood} {genre} piece with {lead} over {accompaniment}, in {key} at {tempo} bpm",
    "{Mood} {genre} track in {key}: {lead} melody, {accompaniment} and {bass}",
    "{Lead} with a {mood} melody over {accompaniment}, {genre}, {tempo} bpm",
    "{Speed} {genre} with {lead}, {accompaniment} and {bass}, {mood} and {mood2}, {key}",
    "This {genre} song features {lead} and {accompaniment}; it feels {mood}, is in {key} and runs at {tempo} bpm",
    "{genre}, {mood}, {lead}, {accompaniment}, {drums}, {key}, {tempo} bpm",
    "A {speed} instrumental in {key}, {mood} and {mood2}, led by {lead} with {accompaniment}, {genre} style {drums}",
    "{Mood} {lead} tune in {genre} style, {tempo} beats per minute, {key}",
)
"""The placeholders are facts of the piece. A capitalised placeholder has a capitalised value."""


def caption(piece: Piece, variant: int = 0) -> str:
    """Return a sentence about a piece. The same (piece, variant) always has the same sentence, and consecutive variants
    use different templates."""
    start = random.Random(f"segue demo caption {piece.seed}/{piece.index}").randrange(len(TEMPLATES))
    facts = {
        "mood": piece.moods[variant % 2],
        "mood2": piece.moods[(variant + 1) % 2],
        "genre": piece.genre,
        "lead": piece.lead,
        "accompaniment": piece.accompaniment,
        "bass": piece.bass,
        "key": piece.key.name,
        "tempo": str(round(piece.tempo)),
        "speed": "fast" if piece.is_fast else "slow",
        "drums": "with drums" if piece.hits else "without drums",
    }
    capitals = {name.capitalize(): value.capitalize() for name, value in facts.items()}
    sentence = TEMPLATES[(start + variant) % len(TEMPLATES)].format_map({**facts, **capitals})
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", sentence)
