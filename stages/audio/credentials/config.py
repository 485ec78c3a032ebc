"""Who signs: the knobs of content credentials."""

from typing import ClassVar, Self

from pydantic import model_validator

import schemas

DEVELOPMENT = "development"
"""What stands in place of a certificate's file for one that is made on this machine."""

FORMATS = ("flac", "wav", "mp3")
"""What can be signed, by its ending. C2PA has no place for a manifest in Ogg, and c2pa-python refuses it."""

PASSWORD = "SEGUE_KEY_PASSWORD"
"""The environment variable that holds the password of an encrypted private key. It is read when something is signed,
and written nowhere."""


class Credentials(schemas.Config):
    """Who signs files, by which key."""

    # The certificate is known by its digest, wherever it lies (`identified_credentials`).
    NOT_IDENTITY: ClassVar[tuple[str, ...]] = ("key", "key_command")

    certificate: str = DEVELOPMENT
    """A PEM file: the signer's certificate, then those between it and a root that verifiers trust. `development` is one
    that is made on this machine when it is first needed and says so in its name: for trying out, and trusted by nobody
    else. Part of the files' identity by its digest, wherever it lies."""
    key: str | None = None
    """A PEM file with the certificate's private key (EC on P-256, P-384 or P-521, RSA, Ed25519). Where it is encrypted,
    the environment variable `SEGUE_KEY_PASSWORD` holds its password."""
    key_command: tuple[str, ...] = ()
    """In place of `key`, a program and its arguments that signs what it is given on standard input and writes the
    signature to standard output: the way to keys in hardware (PKCS#11), such as `pkcs11-tool`."""

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        given = (self.key is not None) + bool(self.key_command)
        if self.certificate == DEVELOPMENT and given:
            raise ValueError("expected no key with the development certificate, which has its own")
        if self.certificate != DEVELOPMENT and given != 1:
            raise ValueError("expected a certificate with its key, in a file (key) or behind a program (key_command)")
        return self
