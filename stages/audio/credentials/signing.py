"""Signing: adding a C2PA manifest to a finished file, which says what made it. The file is not changed after that.

A manifest holds random salts, so that nobody can guess what was redacted from it, and most signatures are random too.
So signing a clip twice gives two different files, with the same samples and the same claims.
"""

import io
import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from stages.audio.credentials.certificates import INSTALL, Chain, load_chain, load_key
from stages.audio.credentials.config import Credentials
from stages.audio.marks import SourceType

MIME_TYPES = {"flac": "audio/flac", "wav": "audio/wav", "mp3": "audio/mpeg"}

ASSERTION = "segue.generation"
"""Label of the assertion that says which model made a file, and for which request."""

WATERMARKED = "c2pa.watermarked.unbound"
"""C2PA's action for adding a watermark that does not lead to a manifest (C2PA 2.3)."""

COMMAND_SECONDS = 60
"""Longest time that a `key_command` may take, seconds."""


@dataclass(frozen=True)
class Generation:
    """What a signed file says about how it was made. Nothing in it is about a person: no prompt, no title, no path."""

    model: str
    checkpoint: str
    """The `checkpoint_id`."""
    checkpoint_sha256: str
    """SHA-256 of the checkpoint's weights; empty if it is not known."""
    request: str
    take: int
    """Counted from 1."""
    seed: int
    watermark: str = ""
    """The watermark in the sound, in the words of the file's tag; empty if there is none."""


class Signer:
    """Signs files with the certificate and key of `Credentials`.

    Raises:
        ValueError: the certificate or its key cannot be loaded, or c2pa-python is not installed.
    """

    def __init__(self, credentials: Credentials) -> None:
        try:
            import c2pa  # noqa: F401
        except ImportError as error:
            raise ValueError(f"expected the packages of content credentials, got {error}: {INSTALL}") from error
        self.chain = load_chain(credentials.certificate)
        self._key = None if credentials.key_command else load_key(self.chain, credentials.key)
        self._command = credentials.key_command

    def sign(self, data: bytes, format: str, generation: Generation, source: SourceType) -> bytes:
        """Return the file with a manifest added; its samples and tags are unchanged.

        Args:
            data: a whole file, with its tags.
            format: one of `FORMATS`.

        Raises:
            ValueError: C2PA does not accept the certificate, or the key cannot sign.
        """
        import c2pa

        manifest, signed, failures = _manifest(generation, source), io.BytesIO(), list[Exception]()
        try:
            builder = c2pa.Builder(json.dumps(manifest))
            builder.sign(self._c2pa_signer(failures), MIME_TYPES[format], io.BytesIO(data), signed)
        except c2pa.C2paError as error:
            cause = failures[0] if failures else error
            got = f"one that cannot sign ({cause})"
            raise ValueError(f"expected a certificate for content credentials, with its key, got {got}") from cause
        return signed.getvalue()

    def _c2pa_signer(self, failures: list[Exception]) -> Any:
        """Return c2pa-python's own signer object.

        Args:
            failures: a list that errors of the key's program are added to, because the library does not report them.
        """
        import c2pa

        chain = self.chain
        if self._key is not None:
            info = (chain.algorithm.encode(), chain.pem.encode(), self._key.encode(), None)
            return c2pa.Signer.from_info(c2pa.C2paSignerInfo(*info))

        def sign(data: bytes) -> bytes:
            try:
                return _sign_by_command(self._command, chain, data)
            except Exception as error:
                failures.append(error)
                raise

        return c2pa.Signer.from_callback(sign, c2pa.C2paSigningAlg[chain.algorithm.upper()], chain.pem)


def _manifest(generation: Generation, source: SourceType) -> Mapping[str, Any]:
    """Return the definition of a manifest (C2PA 2.2, 18.15: an action `c2pa.created` with its digital source type).

    A watermark is an action of its own. It says who made a clip but not which clip it is, so it cannot lead to a
    manifest: of C2PA 2.3's two actions it is `c2pa.watermarked.unbound`, which needs no soft binding."""
    try:
        program = {"name": "Segue", "version": version("segue")}
    except PackageNotFoundError:
        program = {"name": "Segue"}
    actions = [{"action": "c2pa.created", "digitalSourceType": str(source), "softwareAgent": program}]
    if generation.watermark:
        actions.append({"action": WATERMARKED, "description": generation.watermark, "softwareAgent": program})
    claims = {name: value for name, value in asdict(generation).items() if name != "watermark" or value}
    return {
        "claim_generator_info": [program],
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": actions}},
            {"label": ASSERTION, "data": claims},
        ],
    }


def _sign_by_command(command: tuple[str, ...], chain: Chain, data: bytes) -> bytes:
    """Have a program sign data, and return the signature in COSE's form.

    Raises:
        ValueError: the program failed, or its output is not a signature by the certificate's key.
    """
    try:
        result = subprocess.run(command, input=data, capture_output=True, timeout=COMMAND_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        code = getattr(error, "returncode", None)
        got = f"exit code {code}" if code else type(error).__name__  # its arguments may hold a PIN
        raise ValueError(f"expected key_command ({command[0]} …) to sign, got {got}") from None
    return _checked_signature(chain, data, result.stdout)


def _checked_signature(chain: Chain, data: bytes, signature: bytes) -> bytes:
    """Return a signature in COSE's form (RFC 9053, 2.1: r and s of equal length). Programs may give it in that form or
    as DER.

    Raises:
        ValueError: it is not a signature of `data` by the certificate's key.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

    key: Any = chain.certificates[0].public_key()
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            size = (key.key_size + 7) // 8
            pair = (int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big"))
            if len(signature) != 2 * size:
                pair = decode_dss_signature(signature)
            digest = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[key.key_size]
            key.verify(encode_dss_signature(*pair), data, ec.ECDSA(digest))
            return b"".join(number.to_bytes(size, "big") for number in pair)
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.AUTO), hashes.SHA256())
        else:
            key.verify(signature, data)
    except (InvalidSignature, ValueError):
        raise ValueError("expected key_command to sign by the certificate's key, got another signature") from None
    return signature
