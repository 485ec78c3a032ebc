"""The knobs of content credentials: who signs, and with which key."""

from typing import ClassVar, Self

from pydantic import model_validator

import schemas

DEVELOPMENT = "development"
"""Value of `certificate` that stands for the development certificate made on this machine."""

FORMATS = ("flac", "wav", "mp3")
"""Formats that can be signed. C2PA defines no place for a manifest in Ogg, and c2pa-python refuses it."""

PASSWORD = "SEGUE_KEY_PASSWORD"
"""Environment variable that holds the password of an encrypted private key. It is read when a key is loaded and never
written anywhere."""


class Credentials(schemas.Config):
    """Who signs files, and with which key."""

    # The certificate is identified by its digest, not by its path (`identified_credentials`).
    NOT_IDENTITY: ClassVar[tuple[str, ...]] = ("key", "key_command")

    certificate: str = DEVELOPMENT
    """A PEM file: the signer's certificate, then those between it and a root that verifiers trust. `development` is a
    certificate that is made on this machine when it is first needed, says so in its name, and is trusted by nobody
    else: for trying out. The certificate's digest, not its path, is part of the files' identity."""
    key: str | None = None
    """A PEM file with the certificate's private key (EC on P-256, P-384 or P-521, RSA, Ed25519). If it is encrypted,
    the environment variable `SEGUE_KEY_PASSWORD` holds its password."""
    key_command: tuple[str, ...] = ()
    """In place of `key`: a program and its arguments. The program signs what it gets on standard input and writes the
    signature to standard output. It gives access to keys in hardware (PKCS#11), for example by `pkcs11-tool`."""

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        given = (self.key is not None) + bool(self.key_command)
        if self.certificate == DEVELOPMENT and given:
            raise ValueError("expected no key with the development certificate, which has its own")
        if self.certificate != DEVELOPMENT and given != 1:
            raise ValueError("expected a certificate with its key, in a file (key) or behind a program (key_command)")
        return self
