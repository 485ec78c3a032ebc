"""What the page says of a codec, in words and in figures."""

from datetime import UTC, datetime

import pytest

from stages.report.codecs import codec_view, newest_codec
from tests.worlds.small_catalog import CODEC_METRICS


def codec(**changes: float) -> dict:
    return {"checkpoint_id": "c", "kind": "codec", "metrics": list((CODEC_METRICS | changes).items())}


def reconstruction(number: int) -> dict:
    row = {"number": number, "track_id": f"{number}f00ba4f00", "seconds": 8.0, "si_snr": -2.25, "log_mel_distance": 6.0}
    return row | {
        **{"original": f"audio/{number}-o.flac", "original_sha256": f"o{number}"},
        **{"decoded": f"audio/{number}-d.flac", "decoded_sha256": f"d{number}"},
    }


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (-10.0, ("91%", "more error than music")),
        (5.0, ("24%", "audible noise or roughness")),
        (15.0, ("3%", "clearly stronger than the error")),
    ],
)
def test_the_summary_says_in_words_how_good_the_codec_is(ratio: float, words: tuple[str, str]) -> None:
    summary = codec_view(codec(valid_si_snr=ratio), [], {}, {}).summary
    assert "At 1.6 kbit/s" in summary
    assert all(word in summary for word in words)


@pytest.mark.parametrize(
    ("ratio", "distance", "verdict"),
    [(7.0, 5.0, "holds"), (0.5, 5.0, "not clear"), (7.0, 39.0, "not clear"), (0.5, 39.0, "does not hold")],
)
def test_the_codec_beats_the_scalar_quantiser_only_if_better_by_both_measures(
    ratio: float, distance: float, verdict: str
) -> None:
    finding = codec_view(codec(valid_si_snr=ratio, valid_log_mel_distance=distance), [], {}, {}).findings[1]
    assert "scalar quantiser" in finding.claim
    assert finding.verdict == verdict


@pytest.mark.parametrize(("used", "verdict"), [(0.51, "holds"), (0.5, "does not hold")])
def test_the_finding_on_codebooks_fails_if_one_is_hardly_used(used: float, verdict: str) -> None:
    shown = codec_view(codec(valid_codebook_2_used=used), [], {}, {})
    assert shown.findings[2].verdict == verdict
    assert [(book.number, book.used, book.perplexity) for book in shown.codebooks] == [
        (1, 96.0, "170.2"),
        (2, 100 * used, "61.0"),
    ]


def test_the_table_has_a_line_for_each_coder_on_each_measured_split() -> None:
    lines = codec_view(codec(), [], {}, {}).measured
    assert [(line.split, line.coder, line.ours) for line in lines] == [
        ("Validation", "This codec", True),
        ("Validation", "Untrained codec", False),
        ("Validation", "Scalar quantiser", False),
        ("Training", "This codec", True),
    ]
    assert lines[1].values == ("−44.00", "25.00", "–", "1.60")


def test_reconstructions_are_in_order_with_the_names_of_their_tracks() -> None:
    rows = [reconstruction(2), reconstruction(1), reconstruction(3)]
    tracks = {rows[1]["track_id"]: {"title": "Tide", "artist": "Vale"}}
    pictures = {f"{side}{number}": f"pictures/{side}{number}.png" for side in "od" for number in (1, 2)}
    first, second = codec_view(codec(), rows, tracks, pictures).reconstructions
    assert (first.title, second.title) == ("Tide by Vale", "Track 2f00ba4f")
    assert first.facts == "0:08 · SI-SNR −2.2 dB · mel distance 6.0 dB"
    assert [(side.name, side.audio, side.picture) for side in first.sides] == [
        ("Original", "../audio/1-o.flac", "pictures/o1.png"),
        ("Decoded", "../audio/1-d.flac", "pictures/d1.png"),
    ]


def test_the_codec_trained_last_is_shown() -> None:
    old, new = (
        {"checkpoint_id": str(day), "kind": "codec", "created_at": datetime(2026, 1, day, tzinfo=UTC)} for day in (1, 2)
    )
    other = {"checkpoint_id": "3", "kind": "clap", "created_at": datetime(2026, 1, 3, tzinfo=UTC)}
    assert newest_codec([new, old, other]) == new
    assert newest_codec([other]) is None
