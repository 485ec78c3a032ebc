"""Writing the demo corpus: pieces as files, with sidecars for some artists and one table for the others.

The files' tags say `algorithmicMedia`: a program composed and played the music, but no model was trained for it. So
they are marked as synthetic sound, and `ingest` still does not refuse them as generated.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from stages.audio import AudioFormat, SourceType, encode_audio
from stages.demo.synthesis import Piece, caption, compose
from stages.demo.synthesis.composition import ARTISTS
from stages.demo.synthesis.rendering import render
from stages.pipeline.cores import available_cores
from stages.pipeline.workers import Call, WorkerPool, map_in_order

PIECES_PER_WORKER = 128
"""A worker process is only started for this many pieces: fewer are played before it has started."""

LONGEST_SECONDS = 600.0
"""Time limit for playing one piece, however busy the machine is."""

STUDIO_ARTISTS = 10
"""Number of artists, the first of `ARTISTS`, whose pieces have sidecars."""

COLUMNS = ("file_name", "title", "artist", "description", "genre", "moods", "instrument", "bpm", "key", "licence")
"""Columns of `metadata.csv`. `;` separates the items of a list."""

LICENCE = "CC0-1.0"
"""Licence of every piece: a program made them up, and whoever runs it may use them freely."""


def write_corpus(
    seed: int, pieces: int, sample_rate: int, folder: Path, on_piece: Callable[[], None]
) -> list[dict[str, Any]]:
    """Compose, play and write a corpus into a folder. Return a row of `pieces` for each, with its `uri` relative to the
    folder."""
    rows, listed = [], []
    for piece, path in _played(seed, pieces, sample_rate, folder):
        if path.parts[0] == "studio":
            sidecar = json.dumps(_sidecar(piece, path, sample_rate), indent=2)
            (folder / path).with_suffix(".json").write_text(sidecar + "\n", encoding="utf-8")
        else:
            listed.append(_listed(piece, path))
        rows.append(_piece_row(piece, path, sample_rate))
        on_piece()
    if listed:
        (folder / "radio" / "metadata.csv").write_text(_metadata_csv(listed), encoding="utf-8")
    return rows


def _played(seed: int, pieces: int, sample_rate: int, folder: Path) -> Iterator[tuple[Piece, Path]]:
    """Yield each piece with its path, once its sound is written. Many pieces are played by worker processes, one for
    each core: notes are short vectors, so threads would wait for Python's lock."""
    count = min(available_cores(), pieces // PIECES_PER_WORKER)
    if count < 2:
        for index in range(pieces):
            yield _write_sound(seed, index, folder, sample_rate)
        return
    pool = WorkerPool((__name__,))
    try:
        written = map_in_order(
            lambda index: pool.run(Call(_write_sound, (seed, index, folder, sample_rate)), LONGEST_SECONDS),
            range(pieces),
            count,
            2 * count,
            lambda: None,
        )
        for _, result in written:
            yield result
    finally:
        pool.close()


def _path_of(piece: Piece) -> Path:
    """Return the path of a piece's file under `demo/`."""
    name = f"{piece.index:04d}-{_slug(piece.title)}"
    artist = ARTISTS.index(piece.artist)
    if artist < STUDIO_ARTISTS:
        return Path("studio", _slug(piece.artist), f"{name}.flac")
    return Path("radio", f"{name}.{'ogg' if artist % 2 else 'wav'}")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _write_sound(seed: int, index: int, folder: Path, sample_rate: int) -> tuple[Piece, Path]:
    """Compose and play a piece, and write its sound into the folder. Return the piece with its path there."""
    piece = compose(seed, index)
    path = _path_of(piece)
    format: AudioFormat = path.suffix[1:]  # type: ignore[assignment]
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    sound = render(piece, sample_rate).sum(0, keepdim=True).numpy()
    (folder / path).write_bytes(encode_audio(sound, sample_rate, format, source=SourceType.ALGORITHMIC))
    return piece, path


def _sidecar(piece: Piece, path: Path, sample_rate: int) -> dict[str, Any]:
    """Return the sidecar of a piece, in the form of AudioCraft's music datasets."""
    return {
        "key": piece.key.name,
        "artist": piece.artist,
        "sample_rate": sample_rate,
        "file_extension": path.suffix[1:],
        "description": caption(piece),
        "keywords": ", ".join((*piece.instruments, "fast" if piece.is_fast else "slow")),
        "duration": round(piece.seconds, 3),
        "bpm": piece.tempo,
        "genre": piece.genre,
        "title": piece.title,
        "name": path.stem,
        "instrument": ", ".join(piece.instruments),
        "moods": list(piece.moods),
        "licence": LICENCE,
    }


def _listed(piece: Piece, path: Path) -> dict[str, str]:
    return {
        "file_name": path.name,
        "title": piece.title,
        "artist": piece.artist,
        "description": caption(piece),
        "genre": piece.genre,
        "moods": ";".join(piece.moods),
        "instrument": ";".join(piece.instruments),
        "bpm": f"{piece.tempo:g}",
        "key": piece.key.name,
        "licence": LICENCE,
    }


def _metadata_csv(listed: Sequence[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(listed)
    return text.getvalue()


def _piece_row(piece: Piece, path: Path, sample_rate: int) -> dict[str, Any]:
    return {
        "piece_id": f"{piece.seed}-{piece.index:04d}",
        "uri": path.as_posix(),
        "seed": piece.seed,
        "index": piece.index,
        "seconds": piece.seconds,
        "sample_rate": sample_rate,
        "title": piece.title,
        "artist": piece.artist,
        "genre": piece.genre,
        "moods": list(piece.moods),
        "instruments": list(piece.instruments),
        "key": piece.key.name,
        "bpm": piece.tempo,
        "beats_per_bar": piece.beats_per_bar,
        "chords": [chord.name for chord in piece.chords],
        "melody": [{"onset": note.onset, "seconds": note.duration, "pitch": note.pitch} for note in piece.melody],
        "description": caption(piece),
    }
