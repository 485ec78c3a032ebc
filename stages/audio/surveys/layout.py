"""What a survey returns: the recordings that a file holds, where each is, and what is odd about it."""

from dataclasses import dataclass

from stages.audio.splicing import Piece


@dataclass(frozen=True)
class Silence:
    """A place in a part where sound was lost, and the length of the silence that replaces it."""

    position: int
    """Decoded samples of the part before it."""
    frames: int
    """Samples of silence."""


@dataclass(frozen=True)
class Part:
    """A whole recording in a file."""

    pieces: tuple[Piece, ...] | None = None
    """Pieces that a decoder should be given; None for the file as it is."""
    frames: int | None = None
    """Samples per channel, by the container's structure; None if only decoding can tell."""
    silences: tuple[Silence, ...] = ()
    needs_ffmpeg: bool = False
    """Whether libsndfile would stop too early or ignore damage silently."""


@dataclass(frozen=True)
class Layout:
    """The recordings in a file, one after the other, and sentences about what is odd."""

    parts: tuple[Part, ...] = (Part(),)
    remarks: tuple[str, ...] = ()
