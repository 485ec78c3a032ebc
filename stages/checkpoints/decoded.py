"""Decoded sound, handed on from the gate, which decodes every take to judge it, to `decode`, which writes it to a file.

The sound lies in the gate's scratch folder, a file for each take, as the codec returned it. It is only a cache: every
file says which codes and which codec it was decoded from. If a file is missing, belongs to other codes or another
codec, or was damaged by a power cut, `decode` decodes the codes again and gets the same samples. Files that nobody
takes within a day are removed by the next gate.
"""

import hashlib
import io
import logging
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from schemas import Store
from schemas.identity import canonical
from stages.audio import Samples
from stages.pipeline.scratch import Scratch

ENDING = ".sound"

MOST_BYTES = 8e9
"""Largest size of all files of a gate: 17 hours of one channel at 32 kHz. Takes beyond that are decoded twice."""

MOST_OF_FREE = 0.25
"""Share of the free disk space that one gate's files may take."""

KEPT_SECONDS = 24 * 3600.0
"""Age after which a file is removed."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class DecodedSound:
    """The sound that a codec decoded from the codes of a take."""

    samples: Samples
    """[C, N], cut to the requested seconds."""
    sample_rate: int
    """Sample rate of the sound, Hz."""


class DecodedSounds:
    """The decoded sounds of one version of `verdicts`.

    Args:
        version: the version of `verdicts`.
        codec: the digest of the codec's files.
    """

    def __init__(self, store: Store, version: str, codec: str) -> None:
        self._folder, self._codec = Scratch(store, "gate", version).folder, codec
        self._room = 0.0

    def make_room(self) -> None:
        """Remove files that are too old, and measure how much may be kept. Before this call nothing is kept."""
        sizes = 0
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            for path in self._folder.glob("*" + ENDING + "*"):
                with suppress(FileNotFoundError):  # another job took it
                    status = path.stat()
                    if time.time() - status.st_mtime > KEPT_SECONDS:
                        path.unlink()
                    else:
                        sizes += status.st_size
            self._room = min(MOST_BYTES - sizes, MOST_OF_FREE * shutil.disk_usage(self._folder).free)

    def keep(self, generation: Mapping[str, Any], seconds: float, sound: DecodedSound) -> None:
        """Keep the sound of a take, where there is room; it replaces the sound of an earlier try of the take.

        Args:
            generation: the row of `generations`, with the codes of the try.
            seconds: the requested seconds.
        """
        if sound.samples.nbytes > self._room:
            self.drop(generation)
            return
        payload = io.BytesIO()
        np.save(payload, sound.samples, allow_pickle=False)
        header = f"{self._identity(generation, seconds)} {_digest(payload.getbuffer())} {sound.sample_rate}\n"
        path = self._path(generation)
        replaced_bytes = 0
        with suppress(FileNotFoundError):  # there is no earlier try, or another job took its sound
            replaced_bytes = path.stat().st_size
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.inprogress")
        try:
            with temporary.open("wb") as file:
                file.write(header.encode())
                file.write(payload.getbuffer())
            os.replace(temporary, path)
            self._room += replaced_bytes - len(header) - payload.getbuffer().nbytes
        except OSError as error:
            temporary.unlink(missing_ok=True)
            self._room = 0.0
            log.info("decoded sound cannot be kept any longer and will be decoded again: %s", error)

    def find(self, generation: Mapping[str, Any], seconds: float) -> DecodedSound | None:
        """Return the sound of a take if it was decoded from these codes by this codec; None where it is not there."""
        try:
            header, _, payload = self._path(generation).read_bytes().partition(b"\n")
        except OSError:
            return None
        identity, digest, rate = [*header.decode("ascii", "replace").split(" "), "", "", ""][:3]
        if identity != self._identity(generation, seconds) or digest != _digest(payload):
            return None
        return DecodedSound(np.load(io.BytesIO(payload), allow_pickle=False), int(rate))

    def drop(self, generation: Mapping[str, Any]) -> None:
        """Remove the sound of a take, if it is there."""
        with suppress(OSError):
            self._path(generation).unlink()

    def _path(self, generation: Mapping[str, Any]) -> Path:
        return self._folder / f"{generation['request_id']}-{generation['take']}{ENDING}"

    def _identity(self, generation: Mapping[str, Any], seconds: float) -> str:
        """Return a hash of everything that a sound is made from, as 64 hexadecimal digits."""
        codes = np.array(generation["codes"], dtype=np.int64)
        codes_facts = {name: generation[name] for name in ("cardinality", "frame_rate", "codec_identity", "channels")}
        ingredients = codes_facts | {"shape": list(codes.shape), "seconds": seconds, "codec": self._codec}
        return hashlib.sha256(canonical(ingredients).encode() + codes.tobytes()).hexdigest()


def _digest(payload: bytes | memoryview) -> str:
    return hashlib.sha256(payload).hexdigest()
