"""Signers: a root, and certificates that it signs, for keys of every kind."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

KEYS = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "RSA": lambda: rsa.generate_private_key(65_537, 2_048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
}


class SignerFiles:
    """A label's certificate, its key and its root, as files of a folder.

    Args:
            kind: kind of the key, one of `KEYS`.
        password: encrypts the key.
        days: how long the certificate is valid from today; less than 0, it expired.
    """

    def __init__(self, folder: Path, kind: str = "P-256", password: str | None = None, days: int = 30) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        root_key, self.private_key = ec.generate_private_key(ec.SECP256R1()), KEYS[kind]()
        root = _issue("Label Root", root_key, root_key, "Label Root", 60, True)
        leaf = _issue("Some Label", self.private_key, root_key, "Label Root", days, False)
        self.root, self.certificate, self.key = (folder / f"{name}.pem" for name in ("root", "certificate", "key"))
        self.root.write_bytes(root.public_bytes(Encoding.PEM))
        self.certificate.write_bytes(leaf.public_bytes(Encoding.PEM))
        self.root_key = folder / "root_key.pem"
        self.root_key.write_bytes(root_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
        self.key.write_bytes(self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))

    @property
    def fields(self) -> dict[str, str]:
        return {"certificate": str(self.certificate), "key": str(self.key)}


def serialised(private_key: Any) -> bytes:
    """The private number of an EC key, as it appears in every unencrypted form of it."""
    return private_key.private_numbers().private_value.to_bytes(32, "big")


def _issue(name: str, key: Any, issuer_key: Any, issuer: str, days: int, is_root: bool) -> x509.Certificate:
    usage = dict.fromkeys(("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"), False)
    usage |= dict.fromkeys(("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False)
    usage["key_cert_sign" if is_root else "digital_signature"] = True
    end = datetime.now(UTC) + timedelta(days=days)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - timedelta(days=90))
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(is_root, None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not is_root:
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purpose, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _name(text: str) -> x509.Name:
    names = (x509.NameAttribute(NameOID.COMMON_NAME, text), x509.NameAttribute(NameOID.ORGANIZATION_NAME, text))
    return x509.Name(names)
