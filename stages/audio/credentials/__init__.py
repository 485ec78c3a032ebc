"""Content credentials: signed C2PA manifests in WAV, FLAC and MP3 (C2PA specification 2.2), by c2pa-python, offline."""

from stages.audio.credentials.certificates import identified_credentials
from stages.audio.credentials.config import DEVELOPMENT, FORMATS, Credentials
from stages.audio.credentials.reading import Anchor, SignedClaim, read_credentials
from stages.audio.credentials.signing import Generation, Signer

__all__ = [
    "DEVELOPMENT",
    "FORMATS",
    "Anchor",
    "Credentials",
    "Generation",
    "SignedClaim",
    "Signer",
    "identified_credentials",
    "read_credentials",
]
