"""Certificates of signers, and a development certificate that is made on this machine.

C2PA's requirements for a signer's certificate (specification 2.2, 14.5.1): digital signature as a key usage, an
extended key usage such as emailProtection or documentSigning, and an issuer other than itself.
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from stages.audio.credentials.config import DEVELOPMENT, PASSWORD, Credentials

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate, Name

NAME = "Segue development certificate, not for release"
ROOT_NAME = "Segue development root, not for release"
LIFETIME = timedelta(days=365)
"""How long a development certificate is valid."""

INSTALL = "install them with pip install segue[credentials]"


@dataclass(frozen=True)
class Chain:
    """A signer's certificate and those above it, the signer's first."""

    certificates: "tuple[Certificate, ...]"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the signer's certificate, in hexadecimal."""
        from cryptography.hazmat.primitives import hashes

        return self.certificates[0].fingerprint(hashes.SHA256()).hex()

    @property
    def pem(self) -> str:
        """The certificates as PEM, the signer's first."""
        from cryptography.hazmat.primitives.serialization import Encoding

        return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in self.certificates)

    @cached_property
    def algorithm(self) -> str:
        """The signature algorithm for the key: COSE's name in lower case.

        Raises:
            ValueError: C2PA has no algorithm for such a key.
        """
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

        key = self.certificates[0].public_key()
        if isinstance(key, ec.EllipticCurvePublicKey) and key.key_size in (256, 384, 521):
            return {256: "es256", 384: "es384", 521: "es512"}[key.key_size]
        if isinstance(key, rsa.RSAPublicKey):
            return "ps256"
        if isinstance(key, ed25519.Ed25519PublicKey):
            return "ed25519"
        raise ValueError(f"expected a key of EC (P-256, P-384, P-521), RSA or Ed25519, got {type(key).__name__}")


def load_chain(path: str) -> Chain:
    """Return the certificates of a PEM file. For `development` return the development certificate, which is made if
    there is none.

    Raises:
        ValueError: the file cannot be read, holds no certificate, or its first certificate is not valid today.
    """
    file = development_folder() / "certificate.pem" if path == DEVELOPMENT else Path(path).expanduser()
    chain = Chain(tuple(read_certificates(file)))
    first, now = chain.certificates[0], datetime.now(UTC)
    if not first.not_valid_before_utc <= now <= first.not_valid_after_utc:
        dates = f"{first.not_valid_before_utc:%Y-%m-%d} to {first.not_valid_after_utc:%Y-%m-%d}"
        remedy = f"; remove {file.parent} for a new one" if path == DEVELOPMENT else ""
        raise ValueError(f"expected a certificate that is valid today, got {file}, valid from {dates}{remedy}")
    return chain


def identified_credentials(credentials: Credentials) -> Credentials:
    """Return the credentials as they enter fingerprints: with the certificate's digest in place of its file, and no
    key.

    Raises:
        ValueError: the certificate does not exist or cannot be used.
    """
    fields = {"certificate": f"sha256:{load_chain(credentials.certificate).digest}", "key": None, "key_command": ()}
    return credentials.model_copy(update=fields)


def read_certificates(file: Path) -> "list[Certificate]":
    """Return the certificates of a PEM file, at least one.

    Raises:
        ValueError: the file cannot be read or holds none, or the package `cryptography` is not installed.
    """
    try:
        from cryptography.x509 import load_pem_x509_certificates
    except ImportError as error:
        raise ValueError(f"expected the packages of content credentials, got {error}: {INSTALL}") from error
    try:
        return load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"expected a PEM file of certificates at {file}, got {error}") from error


def load_key(chain: Chain, path: str | None) -> str:
    """Return the private key of a certificate as unencrypted PEM, to be kept in memory only.

    Args:
        path: the key's PEM file; None for the development certificate's key.

    Raises:
        ValueError: the key cannot be read, its password is wrong or missing, or it belongs to another certificate.
    """
    from cryptography.hazmat.primitives import serialization

    file = development_folder() / "key.pem" if path is None else Path(path).expanduser()
    password = os.environ.get(PASSWORD)
    try:
        data = file.read_bytes()
        encrypted = b"ENCRYPTED" in data
        key = serialization.load_pem_private_key(data, password.encode() if password and encrypted else None)
    except TypeError as error:
        raise ValueError(f"expected the password of {file} in the environment variable {PASSWORD}, got none") from error
    except OSError as error:
        raise ValueError(f"expected a private key at {file}, got {error.strerror}") from error
    except ValueError:  # the parser's message is not repeated: it may quote the key
        problem = f"one that the password in {PASSWORD} does not decrypt" if encrypted else "an unreadable file"
        raise ValueError(f"expected a private key as PEM in {file}, got {problem}") from None
    if key.public_key() != chain.certificates[0].public_key():
        raise ValueError(f"expected the private key of the certificate {chain.digest[:16]}…, got another key in {file}")
    return _pem(key)


def _pem(key: "PrivateKeyTypes") -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def development_place() -> Path:
    """Return where this machine's development certificate is, if there is one: `segue/development-certificate` in
    `$XDG_DATA_HOME`, by default `~/.local/share`."""
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return data / "segue" / "development-certificate"


def development_folder() -> Path:
    """Return the folder of this machine's development certificate, with `certificate.pem`, `key.pem` and `root.pem`. It
    is made if it does not exist. If two processes make it at the same time, one of them wins."""
    folder = development_place()
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))  # readable by its owner only
        try:
            _make_development_certificate(new)
            new.rename(folder)
        except OSError:
            if not folder.exists():
                raise
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return folder


def _make_development_certificate(folder: Path) -> None:
    """Make a root and a certificate that it signs. The root's key is discarded, so it can sign nothing else."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = _certificate(ROOT_NAME, root_key, ROOT_NAME, root_key, is_root=True)
    certificate = _certificate(NAME, key, ROOT_NAME, root_key, is_root=False)
    (folder / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_text(_pem(key), encoding="ascii")
    (folder / "key.pem").chmod(0o600)


def _certificate(
    name: str, key: "EllipticCurvePrivateKey", issuer_name: str, issuer_key: "EllipticCurvePrivateKey", is_root: bool
) -> "Certificate":
    """Make a certificate that meets C2PA's requirements."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID

    usages = dict.fromkeys(
        (
            *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
            *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        ),
        False,
    )
    usages |= {"key_cert_sign": True, "crl_sign": True} if is_root else {"digital_signature": True}
    start = datetime.now(UTC) - timedelta(hours=1)  # for clocks that are slow
    builder = (
        x509.CertificateBuilder()
        .issuer_name(_name(issuer_name))
        .subject_name(_name(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=0 if is_root else None), critical=True)
        .add_extension(x509.KeyUsage(**usages), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not is_root:
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purposes, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _name(common_name: str) -> "Name":
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    # C2PA's validators show the organisation as the signer.
    names = {NameOID.COMMON_NAME: common_name, NameOID.ORGANIZATION_NAME: "Segue (development)"}
    return x509.Name([x509.NameAttribute(kind, text) for kind, text in names.items()])
