"""Making a delivered file: the store's own bytes where nothing else is asked for, else the sound in another form.

A clip in another form is as loud as the store's and keeps its peak limit as a player hears it; its tags and marks are
written anew, and where its store's files are signed it is signed again, when all else is done.
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
"""Formats with bits a sample."""

TRUE_PEAK = -1.0
"""The limit of clips of which it is not known, dBTP (`decode.true_peak`)."""

RATES = (8_000, 192_000)
"""Lowest and highest sample rate, Hz."""


@dataclass(frozen=True)
class Form:
    """What is asked for beside the clips as they are; None for what stays."""

    format: AudioFormat | None = None
    sample_rate: int | None = None
    """Hz."""
    bits: Literal[16, 24] | None = None

    def check(self) -> None:
        """See that files of such a form can be.

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
        form: what they are to be.
        signer: who signs files that are in another form; None leaves those unsigned.
    """

    def __init__(self, store: Store, form: Form, signer: Signer | None = None) -> None:
        self._store, self._form, self._signer = store, form, signer
        self._licences = dict[str, str]()
        self._models = dict[str, tuple[str, str]]()

    @cached_property
    def _versions(self) -> Versions:
        return Versions(self._store)

    def _config(self, chosen: ChosenClip) -> Mapping[str, Any]:
        """Return the configuration that a clip was decoded with; an empty one where that is not known."""
        fingerprint = str(chosen.clip["path"]).partition("version=")[2].partition("/")[0]
        version = self._versions.all.get(fingerprint)
        return version.config if version else {}

    def signed_by(self, chosen: ChosenClip) -> str | None:
        """Return the digest of the certificate that the store's file is signed by; None where it is not."""
        credentials = self._config(chosen).get("credentials")
        return str(credentials["certificate"]) if credentials else None

    def form_of(self, chosen: ChosenClip) -> str:
        """Say in words what is to be changed of a clip's file; empty where a copy will do.

        Raises:
            ValueError: bits a sample are asked of a format that has none.
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
        """Return the tag of a clip whose sound carries a watermark, which another form keeps as well as it can."""
        watermark = self._config(chosen).get("watermark")
        return {WATERMARK_TAG: watermark_words(watermark["message"])} if watermark else {}

    def _bits(self, chosen: ChosenClip) -> Literal[16, 24]:
        return 24 if self._config(chosen).get("bits") == 24 else 16

    def ending(self, chosen: ChosenClip) -> str:
        """Return the ending of a clip's file."""
        return str(self._form.format or chosen.clip["format"])

    def make(self, chosen: ChosenClip, name: str) -> tuple[bytes, DeliveredFile]:
        """Return a clip's file and what is to be noted of it.

        Args:
            name: its path in the folder.

        Raises:
            FileNotFoundError: the store's file is gone.
            ValueError: it is another one than its row says, or cannot be in the form that is asked for.
        """
        clip, form = chosen.clip, self.form_of(chosen)
        data = self._store.read_bytes(clip["path"])
        if hashlib.sha256(data).hexdigest() != clip["sha256"]:
            raise ValueError(
                f"expected {clip['path']} as its row says, got other bytes: `segue check --deep` says more"
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
        """Return a clip in another form, and what changed of it."""
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
        """Return the licences of what a model learned from, in short; empty where they are not known."""
        if checkpoint_id not in self._licences:
            self._licences[checkpoint_id] = training_licences(self._store, checkpoint_id)
        return self._licences[checkpoint_id]
