"""The clips as data for the page's scripts: blocks of JSON inside the page, a few hundred clips each.

A page that is opened from a disk may read no other files, and data in a script would need a weaker security policy.
Blocks of JSON are never run, and the page stays whole whatever is written beside it. The first block fills the screen;
the others follow.
"""

import json
from collections.abc import Sequence
from typing import Any

from stages.report.annotations import Annotations
from stages.report.clips import ClipView, Score
from stages.report.columns import COLUMNS, HEADLINES

CLIPS_IN_BLOCK = 250
"""How many clips a block holds; it takes a few hundred kilobytes."""


def data_blocks(clips: Sequence[ClipView], clips_in_block: int = CLIPS_IN_BLOCK) -> list[str]:
    """Return the blocks in the order of the clips, as JSON that is safe inside an HTML page."""
    starts = range(0, len(clips), clips_in_block)
    return [as_json([_clip(clip) for clip in clips[start : start + clips_in_block]]) for start in starts]


def catalog_facts(clips: Sequence[ClipView], store_id: str, versions: str) -> dict[str, Any]:
    """Return what the scripts must know before the first clip, such as the columns and how many clips there are."""
    present = {name for clip in clips for name in clip.values}
    present |= {score.column for clip in clips for score in clip.scores}
    twins = {clip.twin.checkpoint for clip in clips if clip.twin}
    return {
        "store": store_id,
        "clips": len(clips),
        "requests": len({clip.request_id for clip in clips}),
        "versions": versions,
        "twins": sorted(twins),
        "columns": [
            {
                "name": column.name,
                "words": column.words,
                "about": column.about,
                "unit": column.unit,
                "headline": column.name in HEADLINES,
            }
            for column in COLUMNS
            if column.name in present
        ],
    }


def as_json(value: Any) -> str:
    """Return a value as JSON that is safe inside an HTML page: it can neither open a tag nor close the one around
    it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _clip(clip: ClipView) -> dict[str, Any]:
    data: dict[str, Any] = {
        **{"id": clip.request_id, "take": clip.take, "takes": clip.takes, "anchor": clip.anchor},
        **{"title": clip.title, "description": clip.description if clip.description != clip.title else ""},
        **{"audio": clip.audio, "picture": clip.picture, "path": clip.path, "length": clip.length},
        **{"seed": str(clip.seed), "checkpoint": clip.checkpoint, "kinds": clip.kinds, "fields": clip.fields},
        **{"values": clip.values, "scores": _scores(clip.scores), "marks": clip.marks},
        **{"facts": clip.facts, "lineage": clip.lineage, "drawn": _drawn(clip.annotations)},
        "sounds": [
            {"role": sound.role, "title": sound.title, "audio": sound.audio, "picture": sound.picture}
            for sound in clip.sounds
        ],
    }
    if clip.twin:
        data["twin"] = {
            **{"checkpoint": clip.twin.checkpoint, "audio": clip.twin.audio, "picture": clip.twin.picture},
            **{"values": clip.twin.values, "scores": _scores(clip.twin.scores)},
            "drawn": _drawn(clip.twin.annotations),
        }
    return data


def _scores(scores: Sequence[Score]) -> dict[str, tuple[str, str, str]]:
    return {score.column: (score.value, score.note, score.verdict) for score in scores}


def _drawn(drawn: Annotations | None) -> dict[str, Any] | None:
    if drawn is None:
        return None
    lanes = [[lane.name, [[box.x, box.width, box.text, box.name] for box in lane.boxes]] for lane in drawn.lanes]
    return {"asked": drawn.beats_asked, "heard": drawn.beats, "lanes": lanes, "words": drawn.words}
