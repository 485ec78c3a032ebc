"""The demo corpus: synthesised recordings on disk, described the way people describe theirs, and the truth about each.

`demo/studio/` holds an artist's pieces a folder, FLAC with JSON sidecars in AudioCraft's form; `demo/radio/` holds the
other artists' as Ogg Vorbis and WAV with one `metadata.csv` in the AudioFolder form. Nothing but the corpus lies under
`demo/`, which is where `ingest` looks when no source is given. Stems are not stored: a piece's seed and index make them
again."""

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

import schemas
from model.synthesis import Piece, caption, compose, render
from model.synthesis.genres import ARTISTS
from schemas.tables import PIECES
from stages.audio import AudioFormat, encode_audio
from stages.contract import Context, Whole

READS, WRITES, VERSION = (), PIECES, 1

FOLDER = "demo"
"""Of the corpus, in the store."""

STUDIO_ARTISTS = 10
"""Artists, the first of `ARTISTS`, whose pieces have sidecars."""

COLUMNS = ("file_name", "title", "artist", "description", "genre", "moods", "instrument", "bpm", "key")
"""Of `metadata.csv`; `;` separates the items of a list."""


class Config(schemas.Config):
    """Which corpus."""

    seed: int = Field(default=0, ge=0)
    """Another seed is another corpus."""
    pieces: int = Field(default=96, ge=1, le=10_000)
    """How many; every 16 are one of each artist."""
    sample_rate: int = Field(default=16_000, ge=8_000)
    """Of the files, Hz."""


def whole(config: Config, context: Context) -> Whole:
    """Compose, play and write the corpus, and give a row of `pieces` for each piece."""
    rows, listed = [], []
    context.progress.start("playing the demo corpus", config.pieces, "pieces")
    with context.store.new_folder(FOLDER) as folder:
        for index in range(config.pieces):
            context.check_stopped()
            piece = compose(config.seed, index)
            place = _place(piece)
            _write(piece, folder / place, config.sample_rate)
            if place.parts[0] == "studio":
                sidecar = json.dumps(_sidecar(piece, place, config.sample_rate), indent=2)
                (folder / place).with_suffix(".json").write_text(sidecar + "\n", encoding="utf-8")
            else:
                listed.append(_listed(piece, place))
            rows.append(_row(piece, place, context, config.sample_rate))
            context.progress.advance()
        if listed:
            (folder / "radio" / "metadata.csv").write_text(_table(listed), encoding="utf-8")
    return Whole(rows)


def _place(piece: Piece) -> Path:
    """Of a piece's file, under `demo/`."""
    name = f"{piece.index:04d}-{_plain(piece.title)}"
    artist = ARTISTS.index(piece.artist)
    if artist < STUDIO_ARTISTS:
        return Path("studio", _plain(piece.artist), f"{name}.flac")
    return Path("radio", f"{name}.{'ogg' if artist % 2 else 'wav'}")


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _write(piece: Piece, path: Path, sample_rate: int) -> None:
    format: AudioFormat = path.suffix[1:]  # type: ignore[assignment]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_audio(render(piece, sample_rate).sum(0, keepdim=True).numpy(), sample_rate, format))


def _sidecar(piece: Piece, place: Path, sample_rate: int) -> dict:
    """As AudioCraft's music datasets have it beside each file."""
    return {
        "key": piece.key.name,
        "artist": piece.artist,
        "sample_rate": sample_rate,
        "file_extension": place.suffix[1:],
        "description": caption(piece),
        "keywords": ", ".join((*piece.instruments, "fast" if piece.is_fast else "slow")),
        "duration": round(piece.seconds, 3),
        "bpm": piece.tempo,
        "genre": piece.genre,
        "title": piece.title,
        "name": place.stem,
        "instrument": ", ".join(piece.instruments),
        "moods": list(piece.moods),
    }


def _listed(piece: Piece, place: Path) -> dict[str, str]:
    return {
        "file_name": place.name,
        "title": piece.title,
        "artist": piece.artist,
        "description": caption(piece),
        "genre": piece.genre,
        "moods": ";".join(piece.moods),
        "instrument": ";".join(piece.instruments),
        "bpm": f"{piece.tempo:g}",
        "key": piece.key.name,
    }


def _table(listed: Sequence[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(listed)
    return text.getvalue()


def _row(piece: Piece, place: Path, context: Context, sample_rate: int) -> dict:
    store, relative = context.store, f"{FOLDER}/{place.as_posix()}"
    return {
        "piece_id": f"{piece.seed}-{piece.index:04d}",
        "uri": store.path(relative) if store.is_local else f"{store.url}/{relative}",
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
        "chords": [chord.name for chord in piece.chords],
        "melody": [{"onset": note.onset, "seconds": note.duration, "pitch": note.pitch} for note in piece.melody],
        "description": caption(piece),
    }
