"""The report: a static page of the whole catalog, at which clips are heard, compared and chosen.

It lies at `report/index.html` of the store, always, and links to the clips where they are: it opens from a disk, a web
server or a bucket alike, and asks no network for anything else. Beside it lie spectrograms (`pictures/`) and
excerpts of the recordings that clips refer to (`excerpts/`); both are written before the page, and what it no longer
names goes after it.
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
    ORIGINALITY,
    RECONSTRUCTIONS,
    REPORTS,
    REQUESTS,
    SAMPLES,
    SCORES,
    TRACKS,
    TRAINING,
    VERDICTS,
    Row,
)
from stages.pipeline.contract import Context, ReduceResult

READS = (
    *(CLIPS, VERDICTS, SCORES, CONTROLS, MEASURES, NEAREST, REQUESTS, GENERATIONS),
    *(CHECKPOINTS, TRAINING, TRACKS, RECONSTRUCTIONS, ORIGINALITY, SAMPLES),
)
OPTIONAL = (CLIPS, REQUESTS, GENERATIONS, VERDICTS, SCORES, CONTROLS, MEASURES, NEAREST, TRACKS, ORIGINALITY)
"""A page without clips tells of models and what they learned from."""
WRITES, VERSION = REPORTS, 7

FOLDER, PAGE = "report", "report/index.html"
"""Where the page and all that lies beside it are in the store."""


class Config(schemas.Config):
    """What the page says."""

    title: str = Field(default="The catalog", min_length=1, max_length=200)
    """The page's heading."""
    excerpt_seconds: float = Field(default=12.0, ge=0, le=60)
    """Length of the excerpts of melody references, prompts and nearest tracks that lie beside the page, to be heard
    beside the clips; 0 for none, where the page goes to whom these recordings may not."""


def reduce(
    config: Config,
    context: Context,
    clips: pa.Table,
    verdicts: pa.Table,
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
    originality: pa.Table,
    samples: pa.Table,
) -> ReduceResult:
    """Draw and cut what lies beside the page, write the page, then remove what it names no more."""
    from stages.report.catalog_data import catalog_facts, data_blocks
    from stages.report.clips import Around, Sound, clip_views, relative_address
    from stages.report.codecs import codec_view, newest_codec
    from stages.report.contents import checkpoint_views, known_metrics, table_sizes
    from stages.report.excerpts import FOLDER as EXCERPTS_FOLDER
    from stages.report.excerpts import cut_excerpts
    from stages.report.findings import findings, gate_finding, melody_bars
    from stages.report.pictures import FOLDER as PICTURES_FOLDER
    from stages.report.pictures import TALL_HEIGHT, TALL_WIDTH, SoundFile, draw_pictures
    from stages.report.rendering import Page, render_page
    from stages.report.score_card import score_cards
    from stages.report.twins import earlier_clips, twin_views

    nearest_of = {(row["request_id"], row["take"]): row for row in nearest.to_pylist()}
    untrained_of = _untrained(controls)
    score_rows = [
        row
        | {"chroma_similarity_untrained": untrained_of.get(key, {}).get("chroma_similarity")}
        | nearest_of.get(key, {})
        for row in scores.drop_columns(["embeddings", "mel_statistics"]).to_pylist()
        for key in [(row["request_id"], row["take"])]
    ]
    track_of = {row["track_id"]: row for row in tracks.to_pylist()}
    request_rows = requests.to_pylist()
    generation_rows = generations.select(["request_id", "take", "seed"]).to_pylist()
    request_ids = {row["request_id"] for row in request_rows}
    seeds = {(row["request_id"], row["take"]): row["seed"] for row in generation_rows}
    seeds |= {(row["request_id"], row["take"]): row["seed"] for row in clips.to_pylist() if row["seed"] is not None}
    originality_rows = originality.to_pylist()
    too_near = {row["sha256"] for row in originality_rows if row["too_near"]}
    clip_rows = [
        row
        for row in clips.to_pylist()
        if row["request_id"] in request_ids and (row["request_id"], row["take"]) in seeds
        if not row["reasons"] and row["sha256"] not in too_near
    ]
    verdict_rows = [row for row in verdicts.to_pylist() if row["request_id"] in request_ids]
    checkpoint_rows = sorted(checkpoints.to_pylist(), key=lambda row: row["created_at"], reverse=True)
    codec = newest_codec(checkpoint_rows)
    codec_id = codec["checkpoint_id"] if codec else None
    codec_rows = [row for row in reconstructions.to_pylist() if row["checkpoint_id"] == codec_id]
    earlier = earlier_clips(context, clip_rows, seeds, [row["checkpoint_id"] for row in checkpoint_rows])
    excerpts = cut_excerpts(context, _references(request_rows, nearest_of), track_of, config.excerpt_seconds)

    pictures, clip_rejects = draw_pictures(
        context,
        [SoundFile(f"{row['request_id']}/{row['take']}", row["path"], row["sha256"]) for row in clip_rows],
        "clips",
    )
    beside = [SoundFile(row["item"], row["path"], row["sha256"]) for row in untrained_of.values() if row["path"]]
    beside += [SoundFile(row["sha256"], row["path"], row["sha256"]) for row in earlier.clips.values()]
    beside += [SoundFile(reference, cut.path, cut.sha256) for reference, cut in excerpts.items()]
    pictures |= draw_pictures(context, beside, "sounds beside clips")[0]
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
    around = Around(
        tracks=track_of,
        pictures=addresses,
        untrained={key: row for key, row in untrained_of.items() if row["sha256"] in addresses},
        excerpts={
            reference: Sound("", cut.title, relative_address(cut.path), addresses[cut.sha256])
            for reference, cut in excerpts.items()
            if cut.sha256 in addresses
        },
    )
    views = clip_views(clip_rows, request_rows, seeds, score_rows, around, twin_views(earlier, addresses))
    page = Page(
        title=config.title,
        summary=_catalog_summary(clip_rows, list(track_of.values()), len(used)),
        findings=[
            *findings(card_rows, known_metrics(speaker) if speaker else {}, originality_rows),
            gate_finding(verdict_rows),
        ],
        bars=melody_bars(card_rows),
        cards=score_cards(card_rows),
        clips=views,
        facts=catalog_facts(views, context.store.identity, versions),
        blocks=data_blocks(views),
        codec=codec_view(codec, codec_rows, track_of, addresses) if codec else None,
        checkpoints=checkpoint_views(checkpoint_rows, training.to_pylist(), used, samples.to_pylist()),
        tables=table_sizes(context.store),
        notes=_notes(len(clip_rejects), len(codec_rejects), with_codec=codec is not None),
    )
    html = render_page(page)
    context.store.write_bytes(PAGE, html)
    named = {PICTURES_FOLDER: set(pictures.values())}
    named[EXCERPTS_FOLDER] = {cut.path.rpartition("/")[2] for cut in excerpts.values()}
    for folder, names in named.items():
        for stale in set(context.store.files(folder)) - names:
            context.store.remove(f"{folder}/{stale}")
    row = {
        "report_id": context.identity,
        "path": PAGE,
        "clips": len(clip_rows),
        "bytes": len(html),
        "sha256": hashlib.sha256(html).hexdigest(),
    }
    return ReduceResult([row], rejects=clip_rejects + codec_rejects)


def _untrained(controls: pa.Table) -> dict[tuple[str, int], Row]:
    """Return what an untrained model made of the clips' requests, by request and take."""
    names = ["sounds", "item", "request_id", "take", "chroma_similarity", "path", "sha256"]
    rows = controls.select(names).to_pylist()
    return {(row["request_id"], row["take"]): row for row in rows if row["sounds"] == "untrained"}


def _references(requests: list[Row], nearest: dict[tuple[str, int], Row]) -> set[str]:
    """Return what clips refer to and what is nearest to them."""
    references = {row[name] for row in requests for name in ("melody", "prompt", "clap") if row[name]}
    return references | {f"track:{row['nearest_track']}" for row in nearest.values() if row["nearest_track"]}


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
