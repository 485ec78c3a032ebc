"""Reading content credentials: what a file's manifest claims, and whether it is valid."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from stages.audio.credentials.certificates import INSTALL, read_certificates
from stages.audio.credentials.signing import ASSERTION, MIME_TYPES
from stages.audio.marks import VOCABULARY

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

PROBLEMS = {
    "assertion.dataHash.mismatch": "the file was changed after it was signed",
    "assertion.hashedURI.mismatch": "content that the signature covers was changed",
    "claimSignature.mismatch": "the signature does not belong to the claim",
    "claimSignature.outsideValidity": "it was signed when the certificate was not valid",
    "signingCredential.expired": "the certificate has expired",
    "signingCredential.invalid": "C2PA does not accept the certificate",
    "signingCredential.revoked": "the certificate was revoked",
}
"""Plain words for C2PA's status codes (specification 2.2, 15.2); other codes are shown as they are."""

UNTRUSTED = "signingCredential.untrusted"


@dataclass(frozen=True)
class Anchor:
    """A root certificate that a verifier trusts."""

    name: str
    pem: str

    @classmethod
    def read(cls, file: Path) -> list[Self]:
        """Return an anchor for each certificate of a PEM file.

        Raises:
            ValueError: the file cannot be read, or holds no certificate.
        """
        from cryptography.hazmat.primitives.serialization import Encoding

        roots = read_certificates(file)
        return [cls(_common_name(root), root.public_bytes(Encoding.PEM).decode()) for root in roots]


def _common_name(certificate: "Certificate") -> str:
    from cryptography.x509.oid import NameOID

    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else certificate.subject.rfc4514_string()


@dataclass(frozen=True)
class SignedClaim:
    """What the manifest of a file claims, and whether its signature is valid."""

    generator: str
    """The program that made the claim, with its version."""
    signer: str
    """The signer's name in the certificate."""
    terms: tuple[str, ...]
    """Digital source types of those actions that have one: the last parts of their URLs."""
    actions: tuple[str, ...]
    """The actions on the file, in C2PA's words: `c2pa.created`, and `c2pa.watermarked.unbound` where a watermark was
    added."""
    generation: Mapping[str, Any]
    """What this project writes about model and request (`Generation`); empty in files of other programs."""
    problems: tuple[str, ...]
    """Why the claim is not valid, in words; empty if it is valid."""
    trusted_by: str
    """Name of the given root that vouches for the signer; empty if none does."""


def read_credentials(file: IO[bytes], format: str, anchors: Sequence[Anchor] = ()) -> SignedClaim | None:
    """Return what the manifest of an open file claims; None if it has no manifest. Nothing is read from the network.

    Args:
        format: the file's format, such as `flac`; files in formats outside `MIME_TYPES` have no manifest.
        anchors: the roots that are trusted.

    Raises:
        ValueError: c2pa-python is not installed.
    """
    if format not in MIME_TYPES:
        return None
    report = _report(file, format, None)
    if report is None:
        return None
    for anchor in anchors:
        trusted = _report(file, format, anchor)
        if trusted is not None and trusted["validation_state"] == "Trusted":
            return _claim(trusted, anchor.name)
    return _claim(report, "")


def _report(file: IO[bytes], format: str, anchor: Anchor | None) -> dict[str, Any] | None:
    """Return c2pa-python's report on a file; None if the file has no manifest."""
    try:
        import c2pa
    except ImportError as error:
        raise ValueError(f"expected the packages of content credentials, got {error}: {INSTALL}") from error
    # Nothing is read from the network: neither a manifest stored elsewhere nor whether a certificate was revoked.
    settings: dict[str, Any] = {"verify": {"verify_trust": True, "remote_manifest_fetch": False, "ocsp_fetch": False}}
    if anchor is not None:
        settings["trust"] = {"trust_anchors": anchor.pem}
    file.seek(0)
    try:
        reader = c2pa.Reader(MIME_TYPES[format], file, context=c2pa.Context.from_dict(settings))
        report: dict[str, Any] = json.loads(reader.json())
    except c2pa.C2paError.ManifestNotFound:
        return None
    except c2pa.C2paError as error:
        return {"validation_state": "Invalid", "validation_status": [{"code": f"they cannot be read ({error})"}]}
    return report


def _claim(report: Mapping[str, Any], trusted_by: str) -> SignedClaim:
    """Return the claim in c2pa-python's report on a file."""
    manifest = report.get("manifests", {}).get(report.get("active_manifest"), {})
    data = {assertion["label"]: assertion.get("data") for assertion in manifest.get("assertions", ())}
    actions = (data.get("c2pa.actions.v2") or data.get("c2pa.actions") or {}).get("actions", ())
    generators = manifest.get("claim_generator_info") or [{}]
    signature = manifest.get("signature_info") or {}
    codes = [status["code"] for status in report.get("validation_status") or ()]
    problems = dict.fromkeys(PROBLEMS.get(code, code) for code in codes if code != UNTRUSTED)
    if report["validation_state"] == "Invalid" and not problems:
        problems["its signature cannot be checked"] = None
    return SignedClaim(
        generator=" ".join(str(generators[0][name]) for name in ("name", "version") if name in generators[0]),
        signer=str(signature.get("common_name") or signature.get("issuer") or ""),
        terms=tuple(
            str(action["digitalSourceType"]).removeprefix(VOCABULARY)
            for action in actions
            if action.get("digitalSourceType")
        ),
        actions=tuple(str(action.get("action", "")) for action in actions),
        generation=data.get(ASSERTION) or {},
        problems=tuple(problems),
        trusted_by=trusted_by,
    )
