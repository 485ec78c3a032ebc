"""The report: one static HTML page of the whole catalog, with a player for every clip.

It lies at `report/index.html` of the store, always, and links to the clips where they are: it opens from a disk, a web
server or a bucket alike, and asks no network for anything else.
"""

import hashlib
import statistics

import pyarrow as pa
from pydantic import Field

import schemas
from schemas.tables import (
    CHECKPOINTS,
    CLIPS,
    CONTROLS,
    GENERATIONS,
    MEASURES,
    NEAREST,
    RECONSTRUCTIONS,
    REPORTS,
    REQUESTS,
    SCORES,
    TRACKS,
    TRAINING,
    Row,
)
from stages.pipeline.contract import Context, ReduceResult

READS = (
    *(CLIPS, SCORES, CONTROLS, MEASURES, NEAREST, REQUESTS, GENERATIONS),
    *(CHECKPOINTS, TRAINING, TRACKS, RECONSTRUCTIONS),
)
OPTIONAL, WRITES, VERSION = (SCORES, CONTROLS, MEASURES, NEAREST, TRACKS), REPORTS, 3

PAGE = "report/index.html"
"""The page's path in the store."""


class Config(schemas.Config):
    """What the page says."""

    title: str = Field(default="The catalog", min_length=1, max_length=200)
    """The page's heading."""


def reduce(
    config: Config,
    context: Context,
    clips: pa.Table,
    scores: pa.Table,
    controls: pa.Table,
    measures: pa.Table,
    nearest: pa.Table,
    requests: pa.Table,
    generations: pa.Table,
    checkpoints: pa.Table,
    training: pa.Table,
    tracks: pa.Table,
    reconstructions: pa.Table,
) -> ReduceResult:
    """Draw the sounds' pictures, then write the page, then remove the pictures that it shows no more."""
    from stages.report.clips import clip_views
    from stages.report.codecs import codec_view, newest_codec
    from stages.report.contents import checkpoint_views, known_metrics, table_sizes
    from stages.report.findings import findings, melody_bars
    from stages.report.pictures import FOLDER, TALL_HEIGHT, TALL_WIDTH, SoundFile, draw_pictures
    from stages.report.rendering import Page, render_page
    from stages.report.score_card import score_cards

    nearest_of = {(row["request_id"], row["take"]): row for row in nearest.to_pylist()}
    untrained_of = _untrained_similarities(controls)
    score_rows = [
        row
        | untrained_of.get((row["request_id"], row["take"]), {})
        | nearest_of.get((row["request_id"], row["take"]), {})
        for row in scores.drop_columns(["embeddings", "mel_statistics"]).to_pylist()
    ]
    track_rows, request_rows = tracks.to_pylist(), requests.to_pylist()
    generation_rows = generations.select(["request_id", "take", "seed"]).to_pylist()
    request_ids = {row["request_id"] for row in request_rows}
    takes = {(row["request_id"], row["take"]) for row in generation_rows if row["request_id"] in request_ids}
    clip_rows = [row for row in clips.to_pylist() if (row["request_id"], row["take"]) in takes]
    checkpoint_rows = checkpoints.to_pylist()
    codec = newest_codec(checkpoint_rows)
    codec_id = codec["checkpoint_id"] if codec else None
    codec_rows = [row for row in reconstructions.to_pylist() if row["checkpoint_id"] == codec_id]
    pictures, clip_rejects = draw_pictures(
        context,
        [SoundFile(f"{row['request_id']}/{row['take']}", row["path"], row["sha256"]) for row in clip_rows],
        "clips",
    )
    codec_sounds = [
        SoundFile(f"{codec_id}/{row['number']}/{side}", row[side], row[f"{side}_sha256"], TALL_WIDTH, TALL_HEIGHT)
        for row in codec_rows
        for side in ("original", "decoded")
    ]
    codec_pictures, codec_rejects = draw_pictures(context, codec_sounds, "reconstructions")
    pictures |= codec_pictures
    addresses = {sha: f"pictures/{name}" for sha, name in pictures.items()}
    clip_rows = [row for row in clip_rows if row["sha256"] in pictures]
    used = sorted({row["checkpoint_id"] for row in clip_rows})
    speaker = next((row for row in checkpoint_rows if row["checkpoint_id"] in used), None)
    shown = [table.name for table in (GENERATIONS, CLIPS, SCORES) if table.name in context.versions]
    versions = ", ".join(f"{name} {context.versions[name]}" for name in shown)
    card_rows = [row for row in measures.to_pylist() if speaker and row["checkpoint_id"] == speaker["checkpoint_id"]]
    page = Page(
        title=config.title,
        summary=_catalog_summary(clip_rows, track_rows, len(used)),
        findings=findings(card_rows, known_metrics(speaker) if speaker else {}),
        bars=melody_bars(card_rows),
        cards=score_cards(card_rows),
        clips=clip_views(clip_rows, request_rows, generation_rows, score_rows, track_rows, addresses, versions),
        codec=codec_view(codec, codec_rows, {row["track_id"]: row for row in track_rows}, addresses) if codec else None,
        checkpoints=checkpoint_views(checkpoint_rows, training.to_pylist(), used),
        tables=table_sizes(context.store),
        notes=_notes(len(clip_rejects), len(codec_rejects), with_codec=codec is not None),
    )
    html = render_page(page)
    context.store.write_bytes(PAGE, html)
    for stale in set(context.store.files(FOLDER)) - set(pictures.values()):
        context.store.remove(f"{FOLDER}/{stale}")
    row = {
        "report_id": context.identity,
        "path": PAGE,
        "clips": len(clip_rows),
        "bytes": len(html),
        "sha256": hashlib.sha256(html).hexdigest(),
    }
    return ReduceResult([row], rejects=clip_rejects + codec_rejects)


def _untrained_similarities(controls: pa.Table) -> dict[tuple[str, int], Row]:
    """Return how well an untrained model follows the melody of each clip that it was given too."""
    rows = controls.select(["sounds", "request_id", "take", "chroma_similarity"]).to_pylist()
    return {
        (row["request_id"], row["take"]): {"chroma_similarity_untrained": row["chroma_similarity"]}
        for row in rows
        if row["sounds"] == "untrained"
    }


def _catalog_summary(clips: list[Row], tracks: list[Row], models: int) -> list[tuple[str, str]]:
    from stages.report.clips import minutes

    loudness = [row["loudness"] for row in clips if row["loudness"] is not None]
    artists = {row["artist"] for row in tracks if row["artist"]}
    figures = [
        ("Clips", f"{len(clips):,}"),
        ("Playing time", minutes(sum(row["seconds"] for row in clips))),
        ("Recordings", f"{len(tracks):,}"),
        ("Of music", minutes(sum(row["seconds"] for row in tracks))),
        ("Artists", f"{len(artists):,}"),
        ("Models behind the clips", f"{models}"),
    ]
    if loudness:
        figures.append(("Median loudness", f"{statistics.median(loudness):.1f} LUFS"))
    return figures


def _notes(refused: int, codec_refused: int, with_codec: bool) -> list[str]:
    notes = [
        "Intervals are of 95 %: Wilson’s for shares of right answers, a bootstrap’s for means and distances. n counts "
        "sounds. Every number of the score card is a row of the table measures.",
        "Chance is what the same clips score by what other requests asked for; of a melody by its own frames in any "
        "order.",
        "The untrained model has the same architecture, requests and seeds, and random weights. Recordings are of the "
        "splits valid and test, as long as the median request, and judged by their metadata: what is wrong there is "
        "the detector’s error. The codec ceiling is the same recordings through the codec.",
        "Chroma similarity is the share of frames, at 7.8 a second, whose strongest pitch class is the asked one: the "
        "mean cosine of the quantised chroma (MusicGen, arXiv:2306.05284, section 4).",
        "What was asked and could not be heard counts as wrong. Of beats and chords the lines and lanes on top are "
        "what was asked, those below what was heard.",
        "A claim holds when clips are more than two standard errors above chance and above the untrained model.",
        "Text match is the CLAP cosine of clip and description. The nearest track is that of the training split whose "
        "CLAP embedding has the highest cosine with the clip’s: near 1 it would be a copy.",
    ]
    if with_codec:
        notes += [
            "SI-SNR is the scale-invariant signal-to-noise ratio of decoded sound (Le Roux et al., arXiv:1811.02508). "
            "Mel distance is the mean difference of mel spectra, which forgives a wrong phase. The codec is evaluated "
            "on the beginnings of recordings; of a codebook no more entries can be in use than they have frames.",
            "The untrained codec is the same network with random weights and codebooks started on its own output. The "
            "scalar quantiser sends fewer samples of a few bits each, evenly or by the mu-law; of every recording it "
            "takes the number of bits, law and scale with the best SI-SNR, and it never has more bits than the codec.",
        ]
    if codec_refused:
        notes.append(f"Of the codec’s reconstructions {codec_refused} cannot be read: their pairs are left out.")
    if refused:
        notes.append(f"{refused} clips are left out because their files cannot be read; the table rejects says why.")
    return notes
