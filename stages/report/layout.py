"""The layout of the page: what each part says, from the rows of a catalog and the files beside the page."""

import statistics
from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa

from schemas.tables import CLIPS, GENERATIONS, MEASURES, SAMPLES, SCORES, TRAINING, Row
from stages.pipeline.contract import Context
from stages.report.attachments import Attachments
from stages.report.catalog_data import catalog_facts, data_blocks
from stages.report.catalog_rows import CatalogRows
from stages.report.clips import ClipContext, Sound, clip_views, minutes, relative_address
from stages.report.codecs import codec_view
from stages.report.contents import checkpoint_views, known_metrics, table_sizes
from stages.report.findings import findings, gate_finding, melody_bars
from stages.report.rendering import Page
from stages.report.score_card import score_cards
from stages.report.twins import EarlierClips, twin_views


def lay_out(
    title: str,
    context: Context,
    rows: CatalogRows,
    tables: Mapping[str, pa.Table],
    earlier: EarlierClips,
    attachments: Attachments,
) -> Page:
    """Return the whole page as data for the template.

    Args:
        tables: by name; `measures`, `training` and `samples` are shown as they are.
        earlier: another checkpoint's clips of the same requests.
    """
    addresses = attachments.addresses
    clips = [row for row in rows.clips if row["sha256"] in addresses]
    used = sorted({row["checkpoint_id"] for row in clips})
    model = next((row for row in rows.checkpoints if row["checkpoint_id"] in used), None)
    measures = [
        row for row in tables[MEASURES.name].to_pylist() if model and row["checkpoint_id"] == model["checkpoint_id"]
    ]
    shown = [table.name for table in (GENERATIONS, CLIPS, SCORES) if table.name in context.versions]
    versions = ", ".join(f"{name} {context.versions[name]}" for name in shown)
    twins = twin_views(earlier, addresses)
    views = clip_views(clips, rows.requests, rows.seeds, rows.scores, _clip_context(rows, attachments), twins)
    return Page(
        title=title,
        summary=_catalog_summary(clips, rows.tracks.values(), len(used)),
        findings=[
            *findings(measures, known_metrics(model) if model else {}, rows.originality),
            gate_finding(rows.verdicts),
        ],
        bars=melody_bars(measures),
        cards=score_cards(measures),
        clips=views,
        facts=catalog_facts(views, context.store.identity, versions),
        blocks=data_blocks(views),
        codec=codec_view(rows.codec, rows.reconstructions, rows.tracks, addresses) if rows.codec else None,
        checkpoints=checkpoint_views(
            rows.checkpoints, tables[TRAINING.name].to_pylist(), used, tables[SAMPLES.name].to_pylist()
        ),
        tables=table_sizes(context.store),
        notes=[
            *_notes(len(attachments.clip_rejects), len(attachments.codec_rejects), rows.codec is not None),
            *_control_notes(rows.untrained, clips),
        ],
    )


def _clip_context(rows: CatalogRows, attachments: Attachments) -> ClipContext:
    """Return the context of the clips, with only those sounds that have a picture."""
    addresses = attachments.addresses
    return ClipContext(
        tracks=rows.tracks,
        pictures=addresses,
        untrained={key: row for key, row in rows.untrained.items() if row["sha256"] in addresses},
        excerpts={
            reference: Sound("", excerpt.title, relative_address(excerpt.path), addresses[excerpt.sha256])
            for reference, excerpt in attachments.excerpts.items()
            if excerpt.sha256 in addresses
        },
    )


def _catalog_summary(clips: Sequence[Row], tracks: Collection[Row], models: int) -> list[tuple[str, str]]:
    """Return the figures at the top of the page, each with its name."""
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


def _control_notes(untrained: Collection[tuple[str, int]], clips: Sequence[Row]) -> list[str]:
    """Return a note on how many of an untrained model's sounds belong to requests that the catalog no longer has. With
    the same model, another order does not make these sounds again."""
    shown_clips = {(row["request_id"], row["take"]) for row in clips}
    if others := len([key for key in untrained if key not in shown_clips]):
        return [
            f"{others} of the {len(untrained)} sounds of the untrained model belong to requests or takes that are not "
            "among these clips, so they are counted but cannot be compared with one: segue run controls measure report "
            "makes them again for this order."
        ]
    return []


def _notes(refused: int, codec_refused: int, with_codec: bool) -> list[str]:
    """Return what a reader must know about the figures and about what is left out."""
    notes = [
        "Intervals are 95 % intervals: Wilson’s for shares of right answers, a bootstrap’s for means and distances. n "
        "counts sounds. Every number of the score card is a row of the table measures.",
        "Chance is what the same clips score when they are judged by other requests; for a melody, by its own frames "
        "in random order.",
        "The untrained model has the same architecture, requests and seeds, but random weights. Recordings are from "
        "the splits valid and test, cut to the length of the median request and judged by their metadata: what is "
        "wrong there is the detector’s error. The codec ceiling is the same recordings after the codec.",
        "Chroma similarity is the share of frames, at 7.8 a second, whose strongest pitch class is the requested one: "
        "the mean cosine of the quantised chroma (MusicGen, arXiv:2306.05284, section 4).",
        "What was asked for and could not be detected counts as wrong. For beats and chords, the lines and lanes at "
        "the top are what was asked for, those at the bottom what was detected.",
        "A claim holds if clips are more than two standard errors above chance and above the untrained model.",
        "Text match is the CLAP cosine of clip and description. The nearest track is the one of the training split "
        "whose CLAP embedding has the highest cosine with the clip’s; near 1 the clip would be a copy.",
    ]
    if with_codec:
        notes += [
            "SI-SNR is the scale-invariant signal-to-noise ratio of decoded sound (Le Roux et al., arXiv:1811.02508). "
            "Mel distance is the mean difference of mel spectra, which tolerates a wrong phase. The codec is evaluated "
            "on the beginnings of recordings; no more entries of a codebook can be in use than these have frames.",
            "The untrained codec is the same network with random weights and with codebooks initialised from its own "
            "output. The scalar quantiser sends fewer samples of a few bits each, linearly or by the mu-law. For every "
            "recording it uses the number of bits, law and scale with the best SI-SNR, never more bits than the codec.",
        ]
    if codec_refused:
        notes.append(f"{codec_refused} of the codec’s reconstructions cannot be read; their pairs are left out.")
    if refused:
        notes.append(
            f"{refused} clips are left out because their files cannot be read; the table rejects gives the reasons."
        )
    return notes
