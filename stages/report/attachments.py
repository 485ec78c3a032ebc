"""Attachments: the pictures and excerpts beside the page.

They are made before the page; those that it no longer names are removed after it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from schemas import Store
from stages.pipeline.contract import Context, Reject
from stages.report.catalog_rows import CatalogRows
from stages.report.excerpts import FOLDER as EXCERPTS_FOLDER
from stages.report.excerpts import Excerpt, cut_excerpts
from stages.report.pictures import FOLDER as PICTURES_FOLDER
from stages.report.pictures import TALL_HEIGHT, TALL_WIDTH, SoundFile, draw_pictures
from stages.report.twins import EarlierClips


@dataclass(frozen=True)
class Attachments:
    """The files beside the page."""

    pictures: Mapping[str, str]
    """File names of spectrograms by the SHA-256 of their sound."""
    excerpts: Mapping[str, Excerpt]
    """Beginnings of recordings by the reference to them."""
    clip_rejects: Sequence[Reject]
    """Clips that cannot be read."""
    codec_rejects: Sequence[Reject]
    """Reconstructions that cannot be read."""

    @property
    def addresses(self) -> dict[str, str]:
        """Addresses of pictures relative to the page, by the SHA-256 of their sound."""
        return {sha256: f"pictures/{name}" for sha256, name in self.pictures.items()}


def make_attachments(context: Context, rows: CatalogRows, earlier: EarlierClips, excerpt_seconds: float) -> Attachments:
    """Cut the excerpts and draw the pictures of all sounds on the page; files that exist are left as they are.

    Args:
        earlier: another checkpoint's clips, which the page plays beside those of the catalog.
        excerpt_seconds: length of the excerpts; 0 cuts none.
    """
    excerpts = cut_excerpts(context, rows.references, rows.tracks, excerpt_seconds)
    clips = [SoundFile(f"{row['request_id']}/{row['take']}", row["path"], row["sha256"]) for row in rows.clips]
    beside = [SoundFile(row["item"], row["path"], row["sha256"]) for row in rows.untrained.values() if row["path"]]
    beside += [SoundFile(row["sha256"], row["path"], row["sha256"]) for row in earlier.clips.values()]
    beside += [SoundFile(reference, excerpt.path, excerpt.sha256) for reference, excerpt in excerpts.items()]
    reconstructions = [
        SoundFile(
            f"{row['checkpoint_id']}/{row['number']}/{side}",
            row[side],
            row[f"{side}_sha256"],
            TALL_WIDTH,
            TALL_HEIGHT,
        )
        for row in rows.reconstructions
        for side in ("original", "decoded")
    ]
    of_clips, clip_rejects = draw_pictures(context, clips, "clips")
    of_sounds, _ = draw_pictures(context, beside, "sounds beside clips")
    of_codec, codec_rejects = draw_pictures(context, reconstructions, "reconstructions")
    return Attachments(of_clips | of_sounds | of_codec, excerpts, clip_rejects, codec_rejects)


def remove_others(store: Store, attachments: Attachments) -> None:
    """Remove the pictures and excerpts that this page does not name."""
    named = {
        PICTURES_FOLDER: set(attachments.pictures.values()),
        EXCERPTS_FOLDER: {excerpt.path.rpartition("/")[2] for excerpt in attachments.excerpts.values()},
    }
    for folder, names in named.items():
        for name in set(store.files(folder)) - names:
            store.remove(f"{folder}/{name}")
