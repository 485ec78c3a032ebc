"""Finding a sound file in a store: the row that it belongs to, or the clip that it is a delivery of in another form."""

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flows.commands.watermarks import Finding

if TYPE_CHECKING:
    from schemas import Store
    from schemas.tables import Row

CLAIMED = ("request", "take", "checkpoint", "seed", "watermark")
"""Facts of a signed claim that a file's tags state too."""


@dataclass(frozen=True)
class KnownFile:
    """What a store knows about a file."""

    findings: list[Finding]
    clip: "Row | None" = None
    """The row of `clips` that the file belongs to or claims to be; None if there is none."""
    sound: bytes = b""
    """The file whose samples should be the clip's. It is the store's own file if the given one is a delivery of it."""


def find_file(store: "Store", data: bytes, claimed: Mapping[str, str]) -> KnownFile:
    """Look a file up among the store's sounds: by its bytes, or as the clip that it claims to be.

    Args:
        claimed: what the file's tags state, and its signature if that is valid.
    """
    from schemas.queries.database import query

    digest = hashlib.sha256(data).hexdigest()
    rows = query(store, f"SELECT * FROM every_clip WHERE sha256 = '{digest}'").to_pylist()
    if rows:
        row = rows[0]
        refused = query(store, f"SELECT stage, reasons FROM quarantine WHERE sha256 = '{digest}'").to_pylist()
        if refused:
            why = f"quarantined by {refused[0]['stage']}: {'; '.join(refused[0]['reasons'])}"
            return KnownFile([Finding("row", "note", f"{_clip_name(row)}, {why}")], row, data)
        return KnownFile([Finding("row", "holds", f"{_clip_name(row)}, byte for byte")], row, data)
    request, take = claimed.get("request", ""), claimed.get("take", "")
    if re.fullmatch(r"[0-9a-f]+", request) and re.fullmatch(r"\d+", take):
        where = f"request_id = '{request}' AND take = {int(take)}"
        rows = query(store, f"SELECT * FROM clips WHERE {where}").to_pylist()
    if rows:
        return _delivery(store, rows[0], data, claimed)
    rows = query(
        store, f"SELECT * FROM reconstructions WHERE '{digest}' IN (original_sha256, decoded_sha256)"
    ).to_pylist()
    if rows:
        words = f"segment {rows[0]['number']} of the evaluation of codec {rows[0]['checkpoint_id']}, byte for byte"
        return KnownFile([Finding("row", "holds", words)])
    rows = query(store, f"SELECT * FROM samples WHERE sha256 = '{digest}'").to_pylist()
    if rows:
        words = f"sample {rows[0]['number']} of step {rows[0]['step']} of the model {rows[0]['checkpoint_id']}"
        return KnownFile([Finding("row", "holds", f"{words}, byte for byte")])
    return KnownFile([Finding("row", "fails", f"no clip of {store.url} has these bytes, or is named in the tags")])


def _clip_name(clip: "Row") -> str:
    return f"clip {clip['request_id']} take {clip['take']}"


def _delivery(store: "Store", clip: "Row", data: bytes, claimed: Mapping[str, str]) -> KnownFile:
    """Check whether a file that claims to be a clip but has other bytes is a delivery of it in another form: whether
    its tags state the same, and its sound is the clip's."""
    import soundfile

    from stages.audio.marks import read_own_tags
    from stages.delivery.comparing import form_of, likeness

    name = f"the tags name {_clip_name(clip)}"

    def failed(words: str) -> KnownFile:
        return KnownFile([Finding("row", "fails", f"{name}, {words}")], clip, data)

    try:
        stored = store.read_bytes(clip["path"])
        is_copy = form_of(stored) == form_of(data)
        compared = likeness(stored, data, clip["loudness"])
    except FileNotFoundError:
        return failed("whose file is gone, so that nothing can be compared")
    except soundfile.LibsndfileError as error:
        return failed(f"whose file has other bytes, and they cannot be compared: {error}")
    if is_copy:
        return failed("whose file has other bytes: changed, or encoded again")
    ours = read_own_tags(io.BytesIO(stored)) | {"checkpoint": clip["checkpoint_id"], "seed": clip["seed"]}
    others = [
        f"its {tag} is {claimed[tag]}, the clip's {ours[tag]}"
        for tag in CLAIMED
        if tag in claimed and ours.get(tag) is not None and claimed[tag] != str(ours[tag])
    ]
    differing = [*others, *compared.problems]
    if differing:
        return failed(f"but it is another sound: {'; '.join(differing)}")
    words = f"the clip's, as long and as loud; the difference is at least {compared.ratio:.0f} dB below it"
    row = Finding("row", "holds", f"a delivery of {_clip_name(clip)} in another form")
    return KnownFile([row, Finding("sound", "holds", words)], clip, stored)
