"""Making a delivered file: a copy of the store's file if nothing else is asked for, else the sound in another form.

A clip in another form is as loud as the store's file and, as a player hears it, keeps the same peak limit. Its tags and
marks are written again. If the store's files are signed, it is signed again, as the last step.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from schemas import Store
from schemas.queries.descent import model_behind, training_licences
from schemas.storage.versions import Versions
from stages.audio import AudioFormat, SourceType, resample
from stages.audio.clip_tags import clip_tags
from stages.audio.credentials import FORMATS, Generation, Signer
from stages.audio.levelling import encode_at_level
from stages.audio.marks import CREDENTIALS_TAG, WATERMARK_TAG, read_marks
from stages.audio.writing import MP3_RATES
from stages.delivery.choosing import ChosenClip
from stages.delivery.folder import DeliveredFile
from stages.networks.watermarks import watermark_words

LOSSLESS = ("flac", "wav")
"""Formats for which the bits of a sample can be chosen."""

TRUE_PEAK = -1.0
"""The peak limit of clips whose own limit is unknown, dBTP (`decode.true_peak`)."""

RATES = (8_000, 192_000)
"""Lowest and highest sample rate, Hz."""


@dataclass(frozen=True)
class Form:
    """The form that is asked for; None for each property that stays as it is in the store."""

    format: AudioFormat | None = None
    sample_rate: int | None = None
    """Sample rate, Hz."""
    bits: Literal[16, 24] | None = None

    def check(self) -> None:
        """Check that files of this form can exist.

        Raises:
            ValueError: they cannot; the message says why.
        """
        if self.sample_rate is not None and not RATES[0] <= self.sample_rate <= RATES[1]:
            raise ValueError(f"expected --sample-rate from {RATES[0]} to {RATES[1]} Hz, got {self.sample_rate}")
        if self.format == "mp3" and self.sample_rate is not None and self.sample_rate not in MP3_RATES:
            raise ValueError(
                f"expected --sample-rate of {', '.join(map(str, MP3_RATES))} for MP3, got {self.sample_rate}"
            )
        if self.bits is not None and self.format is not None and self.format not in LOSSLESS:
            raise ValueError(f"expected --format {' or '.join(LOSSLESS)} with --bit-depth, got {self.format}")


class Maker:
    """Makes the files of a delivery.

    Args:
        form: the form of the files.
        signer: signs files that are in another form than the store's; None leaves them unsigned.
    """

    def __init__(self, store: Store, form: Form, signer: Signer | None = None) -> None:
        self._store, self._form, self._signer = store, form, signer
        self._licences = dict[str, str]()
        self._models = dict[str, tuple[str, str]]()

    @cached_property
    def _versions(self) -> Versions:
        return Versions(self._store)

    def _config(self, chosen: ChosenClip) -> Mapping[str, Any]:
        """Return the configuration that a clip was decoded with; empty if it is unknown."""
        fingerprint = str(chosen.clip["path"]).partition("version=")[2].partition("/")[0]
        version = self._versions.all.get(fingerprint)
        return version.config if version else {}

    def signed_by(self, chosen: ChosenClip) -> str | None:
        """Return the digest of the certificate that signed the store's file; None if it is not signed."""
        credentials = self._config(chosen).get("credentials")
        return str(credentials["certificate"]) if credentials else None

    def form_of(self, chosen: ChosenClip) -> str:
        """Return the form of a clip's file as text, if it differs from that of the store's file; empty if a copy is
        enough.

        Raises:
            ValueError: a bit depth is asked for and the format has none.
        """
        clip = chosen.clip
        format = self._form.format or clip["format"]
        if self._form.bits is not None and format not in LOSSLESS:
            raise ValueError(
                f"expected clips in {' or '.join(LOSSLESS)} for --bit-depth, got {format}: give --format too"
            )
        rate, bits = self._form.sample_rate or clip["sample_rate"], self._form.bits or self._bits(chosen)
        depth = f", {bits} bits" if format in LOSSLESS else ""
        if (format, rate) == (clip["format"], clip["sample_rate"]) and (not depth or bits == self._bits(chosen)):
            return ""
        signed = f", signed by {self._signer.chain.digest}" if self._signer and format in FORMATS else ""
        return f"{format}, {rate} Hz{depth}{signed}"

    def _watermark(self, chosen: ChosenClip) -> dict[str, str]:
        """Return the tag of a clip whose sound carries a watermark; empty if it carries none. The watermark survives
        another form as well as it can."""
        watermark = self._config(chosen).get("watermark")
        return {WATERMARK_TAG: watermark_words(watermark["message"])} if watermark else {}

    def _bits(self, chosen: ChosenClip) -> Literal[16, 24]:
        return 24 if self._config(chosen).get("bits") == 24 else 16

    def ending(self, chosen: ChosenClip) -> str:
        """Return the extension of a clip's file, without the dot."""
        return str(self._form.format or chosen.clip["format"])

    def make(self, chosen: ChosenClip, name: str) -> tuple[bytes, DeliveredFile]:
        """Return a clip's file and its entry in the note.

        Args:
            name: the file's path in the folder.

        Raises:
            FileNotFoundError: the store's file is gone.
            ValueError: the store's file differs from its row, or cannot have the form that is asked for.
        """
        clip, form = chosen.clip, self.form_of(chosen)
        data = self._store.read_bytes(clip["path"])
        if hashlib.sha256(data).hexdigest() != clip["sha256"]:
            raise ValueError(
                f"expected {clip['path']} as its row says, got other bytes: `segue check --deep` shows more"
            )
        facts = {key: clip[key] for key in ("format", "sample_rate", "channels", "seconds", "loudness", "true_peak")}
        if form:
            data, changed = self._encode(chosen, data)
            facts |= changed
        marks = [f"{mark.term} ({mark.place})" for mark in read_marks(io.BytesIO(data))]
        marks += [f"{words} (watermark)" for words in self._watermark(chosen).values()]
        key = {"request_id": clip["request_id"], "take": clip["take"], "source": clip["sha256"], "form": form}
        digest = hashlib.sha256(data).hexdigest()
        return data, DeliveredFile(file=name, **key, sha256=digest, bytes=len(data), **facts, marks=", ".join(marks))

    def _encode(self, chosen: ChosenClip, data: bytes) -> tuple[bytes, dict[str, Any]]:
        """Return a clip encoded in another form, and the properties that changed."""
        import soundfile

        clip, config = chosen.clip, self._config(chosen)
        decoded, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
        format: AudioFormat = self._form.format or clip["format"]
        new_rate = self._form.sample_rate or rate
        signer = self._signer if format in FORMATS else None
        tags = clip_tags(chosen.generation, chosen.request, self.licences(clip["checkpoint_id"]))
        file = encode_at_level(
            resample(decoded.T, rate, new_rate),
            new_rate,
            format,
            tags | self._watermark(chosen) | ({CREDENTIALS_TAG: "C2PA"} if signer else {}),
            bits=self._form.bits or self._bits(chosen),
            loudness=clip["loudness"],
            true_peak=config.get("true_peak", TRUE_PEAK),
            source=SourceType.TRAINED,
        )
        facts = {"format": format, "sample_rate": new_rate, "seconds": file.seconds}
        facts |= {"loudness": file.measures.loudness, "true_peak": file.measures.true_peak}
        return file.data if signer is None else self._sign(signer, chosen, file.data, format), facts

    def _sign(self, signer: Signer, chosen: ChosenClip, data: bytes, format: AudioFormat) -> bytes:
        clip = chosen.clip
        if clip["checkpoint_id"] not in self._models:
            self._models[clip["checkpoint_id"]] = model_behind(self._store, clip["checkpoint_id"])
        name, digest = self._models[clip["checkpoint_id"]]
        seed = chosen.generation["seed"]
        key = clip["checkpoint_id"], digest, clip["request_id"], clip["take"], seed
        claim = Generation(name, *key, *self._watermark(chosen).values())
        return signer.sign(data, format, claim, SourceType.TRAINED)

    def licences(self, checkpoint_id: str) -> str:
        """Return the licences of what a model learned from, as a short text; empty if they are unknown."""
        if checkpoint_id not in self._licences:
            self._licences[checkpoint_id] = training_licences(self._store, checkpoint_id)
        return self._licences[checkpoint_id]
