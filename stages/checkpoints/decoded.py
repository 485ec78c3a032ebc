"""Decoded sound, handed on from the gate, which hears every take, to `decode`, which makes a file of it.

It lies in the gate's scratch folder, a file for each take, as the codec gave it. It is a cache and no record: every
file says of what codes and by what codec it was decoded, so whoever finds none, or another's, or one that a power cut
has damaged, decodes the codes and has the same samples. What nobody takes within a day is removed by the next gate.
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
"""Of all files of a gate, 17 hours of one channel at 32 kHz; what is more is decoded twice."""

MOST_OF_FREE = 0.25
"""Share of what is free on the disk that one gate's files may take."""

KEPT_SECONDS = 24 * 3600.0
"""Age after which nobody will come for a sound."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class DecodedSound:
    """What a codec made of the codes of a take."""

    samples: Samples
    """[C, N], cut to the seconds that were asked for."""
    sample_rate: int
    """Hz."""


class DecodedSounds:
    """The sounds that one version of `verdicts` was judged by.

    Args:
        version: of `verdicts`.
        codec: the digest of the codec's files.
    """

    def __init__(self, store: Store, version: str, codec: str) -> None:
        self._folder, self._codec = Scratch(store, "gate", version).folder, codec
        self._room = 0.0

    def make_room(self) -> None:
        """Remove what nobody came for, and see how much may be kept: nothing before this was called."""
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
        """Keep the sound of a take, in the place of that of another try of it, where there is room.

        Args:
            generation: the row of `generations`, with the codes of the try.
            seconds: that were asked for.
        """
        if sound.samples.nbytes > self._room:
            self.drop(generation)
            return
        payload = io.BytesIO()
        np.save(payload, sound.samples, allow_pickle=False)
        header = f"{self._identity(generation, seconds)} {_digest(payload.getbuffer())} {sound.sample_rate}\n"
        path = self._path(generation)
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.inprogress")
        try:
            with temporary.open("wb") as file:
                file.write(header.encode())
                file.write(payload.getbuffer())
            os.replace(temporary, path)
            self._room -= sound.samples.nbytes
        except OSError as error:
            temporary.unlink(missing_ok=True)
            self._room = 0.0
            log.info("decoded sound is not handed on any more, it will be decoded again: %s", error)

    def find(self, generation: Mapping[str, Any], seconds: float) -> DecodedSound | None:
        """Return the sound of a take, as it was decoded from these codes by this codec; None where it is not there."""
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
        """Return what a sound is made of, as 64 hexadecimal digits."""
        codes = np.array(generation["codes"], dtype=np.int64)
        known = {name: generation[name] for name in ("cardinality", "frame_rate", "codec_identity", "channels")}
        made_of = known | {"shape": list(codes.shape), "seconds": seconds, "codec": self._codec}
        return hashlib.sha256(canonical(made_of).encode() + codes.tobytes()).hexdigest()


def _digest(payload: bytes | memoryview) -> str:
    return hashlib.sha256(payload).hexdigest()
