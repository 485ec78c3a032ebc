"""What a survey finds: the recordings that a file holds, where each lies, and what is odd about it."""

from dataclasses import dataclass

from stages.audio.splicing import Piece


@dataclass(frozen=True)
class Silence:
    """Sound that is lost: `frames` samples of silence stand for it."""

    position: int
    """Samples of the decoded part before it."""
    frames: int


@dataclass(frozen=True)
class Part:
    """A whole recording in a file."""

    pieces: tuple[Piece, ...] | None = None
    """What a decoder is given; None: the file as it is."""
    frames: int | None = None
    """Samples a channel that the bytes hold, by the container's own structure; None where only decoding tells."""
    silences: tuple[Silence, ...] = ()
    needs_ffmpeg: bool = False
    """libsndfile would read less than there is, or pass over damage without a word."""


@dataclass(frozen=True)
class Layout:
    """The recordings in a file, one after the other, and sentences on what is odd."""

    parts: tuple[Part, ...] = (Part(),)
    remarks: tuple[str, ...] = ()
