"""The codec that was trained here, as the page shows it.

The view says in words how good the codec is, compares it with what it must beat, and has recordings before and after
it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from schemas.tables import Row
from stages.report.clips import SHORT_ID, minutes, relative_address
from stages.report.contents import known_metrics
from stages.report.findings import Finding, Verdict

CODERS = (("", "This codec"), ("_untrained", "Untrained codec"), ("_scalar", "Scalar quantiser"))
"""What is compared: the suffix of its metrics' names, and its name on the page."""

SPLITS = (("valid", "Validation"), ("test", "Test"), ("train", "Training"))

MEASURES = ("si_snr", "log_mel_distance", "multi_scale_mel_distance", "bit_rate")


@dataclass(frozen=True)
class CoderFigures:
    """A line of the table: one coder on one split."""

    split: str
    coder: str
    values: tuple[str, ...]
    """One value for each of `MEASURES`."""
    ours: bool


@dataclass(frozen=True)
class CodebookUse:
    """How a codebook is used on held-out recordings."""

    number: int
    used: float
    """Percentage of its entries that are in use."""
    perplexity: str


@dataclass(frozen=True)
class PicturedSound:
    """A sound with its picture; both addresses are relative to the page."""

    name: str
    audio: str
    picture: str


@dataclass(frozen=True)
class ReconstructionView:
    """A recording before and after the codec."""

    title: str
    facts: str
    sides: tuple[PicturedSound, PicturedSound]


@dataclass(frozen=True)
class CodecView:
    """Holds everything that the page says about the codec."""

    checkpoint_id: str
    summary: str
    findings: tuple[Finding, ...]
    measured: tuple[CoderFigures, ...]
    codebooks: tuple[CodebookUse, ...]
    reconstructions: tuple[ReconstructionView, ...]


def newest_codec(checkpoints: Sequence[Row]) -> Row | None:
    """Return the codec of the store that was trained last, which is the one that the page shows; None if there is
    none."""
    codecs = [row for row in checkpoints if row["kind"] == "codec"]
    return max(codecs, key=lambda row: (row["created_at"], row["checkpoint_id"]), default=None)


def codec_view(
    codec: Row, reconstructions: Sequence[Row], tracks: Mapping[str, Row], pictures: Mapping[str, str]
) -> CodecView:
    """Return the view of a codec with its figures and its reconstructions.

    Args:
        codec: its row of `checkpoints`. A codec of an earlier release may lack any metric.
        reconstructions: its rows of `reconstructions`.
        tracks: rows of `tracks` by id, for titles.
        pictures: addresses of pictures relative to the page, by SHA-256 of the sound. A reconstruction without pictures
            is not shown.
    """
    metrics = known_metrics(codec)
    shown = [row for row in reconstructions if {row["original_sha256"], row["decoded_sha256"]} <= set(pictures)]
    return CodecView(
        checkpoint_id=codec["checkpoint_id"],
        summary=_codec_summary(metrics),
        findings=(
            _beats(metrics, "_untrained", "It reproduces held-out recordings better than an untrained codec"),
            _beats(metrics, "_scalar", "It reproduces them better than a plain scalar quantiser at the same bit rate"),
            _codebook_finding(metrics),
        ),
        measured=tuple(_coder_figures(metrics)),
        codebooks=tuple(_codebook_use(metrics)),
        reconstructions=tuple(
            _reconstruction(row, tracks.get(row["track_id"], {}), pictures)
            for row in sorted(shown, key=lambda row: row["number"])
        ),
    )


def _codec_summary(metrics: Mapping[str, float]) -> str:
    """Return how good the codec is, in words for readers who do not know decibels."""
    ratio, distance = metrics.get("valid_si_snr"), metrics.get("valid_log_mel_distance")
    if ratio is None or distance is None:
        return "This codec was not measured on held-out recordings."
    share = 1 / (1 + 10 ** (ratio / 10))
    rate = metrics.get("valid_bit_rate")
    begin = f"At {rate:.3g} kbit/s, about" if rate is not None else "About"
    if share > 0.5:
        words = "there is more error than music in it"
    elif share > 0.1:
        words = "the piece is recognisable, with audible noise or roughness"
    else:
        words = "the music is clearly stronger than the error"
    return (
        f"{begin} {share:.0%} of the energy of this codec’s output is error, for recordings that it has not learned "
        f"from: {words}. Its spectrum differs from the original’s by {distance:.1f} dB on average. Every clip passes "
        "through this codec, so no clip can sound better than the decoded examples here."
    )


def _beats(metrics: Mapping[str, float], other: str, claim: str) -> Finding:
    names = ("valid_si_snr", "valid_log_mel_distance", f"valid_si_snr{other}", f"valid_log_mel_distance{other}")
    if any(name not in metrics for name in names):
        missing = ", ".join(name for name in names if name not in metrics)
        return Finding(claim, "not measured", f"The checkpoint has no {missing}.")
    ratio, distance, other_ratio, other_distance = (metrics[name] for name in names)
    evidence = (
        f"SI-SNR {_signed(ratio)} dB against {_signed(other_ratio)} (higher is better); mel distance {distance:.1f} dB "
        f"against {other_distance:.1f} (lower is better)."
    )
    better = (ratio > other_ratio) + (distance < other_distance)
    verdicts: tuple[Verdict, ...] = ("does not hold", "not clear", "holds")
    return Finding(claim, verdicts[better], evidence)


def _codebook_finding(metrics: Mapping[str, float]) -> Finding:
    claim = "Every codebook has more than half of its entries in use"
    used = [book.used for book in _codebook_use(metrics)]
    if not used:
        return Finding(claim, "not measured", "The checkpoint does not say.")
    least = min(used)
    evidence = f"The least used of {len(used)} has {least:.0f}% of its entries in use on held-out recordings."
    return Finding(claim, "holds" if least > 50 else "does not hold", evidence)


def _coder_figures(metrics: Mapping[str, float]) -> list[CoderFigures]:
    lines = []
    for split, name in SPLITS:
        for after, coder in CODERS:
            values = [metrics.get(f"{split}_{measure}{after}") for measure in MEASURES]
            if any(value is not None for value in values):
                written = tuple("–" if value is None else _signed(value, 2) for value in values)
                lines.append(CoderFigures(name, coder, written, ours=not after))
    return lines


def _codebook_use(metrics: Mapping[str, float]) -> list[CodebookUse]:
    books: list[CodebookUse] = []
    while (used := metrics.get(f"valid_codebook_{len(books) + 1}_used")) is not None:
        perplexity = metrics.get(f"valid_codebook_{len(books) + 1}_perplexity")
        written = "–" if perplexity is None else f"{perplexity:,.1f}"
        books.append(CodebookUse(len(books) + 1, round(100 * used, 1), written))
    return books


def _reconstruction(row: Row, track: Row, pictures: Mapping[str, str]) -> ReconstructionView:
    name = " by ".join(filter(None, (track.get("title"), track.get("artist")))) or f"Track {row['track_id'][:SHORT_ID]}"
    measures = f"SI-SNR {_signed(row['si_snr'])} dB · mel distance {row['log_mel_distance']:.1f} dB"
    original, decoded = (
        PicturedSound(word, relative_address(row[column]), pictures[row[f"{column}_sha256"]])
        for column, word in (("original", "Original"), ("decoded", "Decoded"))
    )
    return ReconstructionView(name, f"{minutes(row['seconds'])} · {measures}", (original, decoded))


def _signed(value: float, places: int = 1) -> str:
    """Return a number as text, with a minus sign as wide as a digit, as tables of figures use."""
    return f"{value:.{places}f}".replace("-", "−")
