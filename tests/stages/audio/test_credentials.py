"""Content credentials: a signature holds until a byte changes, keys may be held in several ways, and no secret is
disclosed."""

import io
import logging
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from pydantic import ValidationError

from schemas.identity import fingerprint
from stages.audio import SourceType, encode_audio
from stages.audio.credentials import (
    DEVELOPMENT,
    FORMATS,
    Anchor,
    Credentials,
    Generation,
    SignedClaim,
    Signer,
    identified_credentials,
    read_credentials,
)
from stages.audio.credentials.certificates import development_folder, load_chain
from stages.audio.credentials.config import PASSWORD
from stages.audio.identity import track_identity
from stages.audio.marks import mutagen_tags, read_marks
from tests.worlds.recordings import RATE, tones
from tests.worlds.signers import KEYS, SignerFiles

GENERATION = Generation("language_model", "c1", "ab" * 32, "0123456789abcdef", 1, 7)
CANARY = "canary-5c1f"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv(PASSWORD, raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def label(tmp_path_factory: pytest.TempPathFactory) -> SignerFiles:
    return SignerFiles(tmp_path_factory.mktemp("label"))


def plain(format: str) -> bytes:
    return encode_audio(tones(1.0), RATE, format, {"title": "a", "artist": "b"}, source=SourceType.TRAINED)


def signed(format: str, **fields: object) -> bytes:
    signer = Signer(Credentials.model_validate(fields))
    return signer.sign(plain(format), format, GENERATION, SourceType.TRAINED)


def claim(data: bytes, format: str, *roots: Path) -> SignedClaim | None:
    anchors = [anchor for root in roots for anchor in Anchor.read(root)]
    return read_credentials(io.BytesIO(data), format, anchors)


@pytest.mark.parametrize("format", FORMATS)
def test_a_signed_file_keeps_its_samples_tags_and_identity_and_grows_by_3_kb(format, label):
    before, after = plain(format), signed(format, **label.fields)
    assert 0 < len(after) - len(before) < 4_000
    np.testing.assert_array_equal(soundfile.read(io.BytesIO(after))[0], soundfile.read(io.BytesIO(before))[0])
    assert track_identity(io.BytesIO(after)) == track_identity(io.BytesIO(before))
    texts = [
        {str(name): str(value) for name, value in mutagen_tags(io.BytesIO(data)).items()} for data in (before, after)
    ]
    assert {name: texts[1].get(name) for name in texts[0]} == texts[0]
    with av.open(io.BytesIO(after)) as container:
        assert container.metadata["title"] == "a"
    assert "C2PA" in {mark.place for mark in read_marks(io.BytesIO(after))}


@pytest.mark.parametrize("format", FORMATS)
def test_a_claim_states_what_made_the_file_and_which_root_vouches_for_the_signer(format, label):
    data = signed(format, **label.fields)
    read = claim(data, format, development_folder() / "root.pem", label.root)
    assert read is not None
    assert (read.signer, read.trusted_by, read.problems) == ("Some Label", "Label Root", ())
    assert read.terms == ("trainedAlgorithmicMedia",)
    assert read.actions == ("c2pa.created",)
    assert read.generation == {name: value for name, value in vars(GENERATION).items() if name != "watermark"}
    assert read.generator.startswith("Segue")
    stranger = claim(data, format)
    assert stranger is not None
    assert (stranger.trusted_by, stranger.problems) == ("", ())
    assert claim(plain(format), format, label.root) is None


@pytest.mark.parametrize("format", FORMATS)
def test_a_byte_changed_outside_the_padding_of_the_manifest_is_noticed(format, label):
    data = signed(format, **label.fields)
    noticed = 0
    for position in np.random.default_rng(0).integers(4, len(data), 60):
        changed = bytearray(data)
        changed[position] ^= 1
        read = claim(bytes(changed), format, label.root)
        # A manifest that can no longer be read does not claim that the signature holds.
        if read is None or read.problems:
            noticed += 1
        else:  # C2PA's signature leaves room for additions, and does not cover that room
            assert not any(data[position - 4 : position + 5]), position
    assert noticed > 30
    longer = claim(data + b"\0\0", format, label.root)
    assert longer is None or longer.problems


def test_a_file_that_is_encoded_again_has_tags_but_no_signature(label):
    samples, rate = soundfile.read(io.BytesIO(signed("flac", **label.fields)), always_2d=True, dtype="float32")
    again = encode_audio(samples.T, rate, "flac", {"title": "a"}, source=SourceType.TRAINED)
    assert claim(again, "flac", label.root) is None


@pytest.mark.parametrize("kind", KEYS)
def test_keys_of_every_kind_sign(kind, tmp_path):
    files = SignerFiles(tmp_path / kind, kind)
    read = claim(signed("mp3", **files.fields), "mp3", files.root)
    assert read is not None
    assert (read.trusted_by, read.problems) == ("Label Root", ())


def test_the_development_certificate_is_made_once_is_private_and_is_named_as_such():
    read = claim(signed("wav"), "wav", development_folder() / "root.pem")
    assert read is not None
    assert (read.signer, read.trusted_by) == (
        "Segue development certificate, not for release",
        "Segue development root, not for release",
    )
    key = development_folder() / "key.pem"
    assert key.stat().st_mode & 0o077 == 0
    digest = load_chain(DEVELOPMENT).digest
    assert load_chain(DEVELOPMENT).digest == digest
    assert [path.name for path in development_folder().parent.iterdir()] == ["development-certificate"]


def test_a_signer_is_identified_by_the_certificate_and_not_by_its_path(label, tmp_path):
    moved = tmp_path / "moved.pem"
    moved.write_bytes(label.certificate.read_bytes())
    here = identified_credentials(Credentials.model_validate(label.fields))
    there = identified_credentials(Credentials(certificate=str(moved), key_command=("some", "program")))
    assert fingerprint(here) == fingerprint(there)
    assert str(tmp_path) not in str(there)
    other = SignerFiles(tmp_path / "other")
    assert fingerprint(identified_credentials(Credentials.model_validate(other.fields))) != fingerprint(here)


def test_an_encrypted_key_is_opened_by_the_password_in_the_environment_which_is_never_disclosed(
    tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.DEBUG)
    files = SignerFiles(tmp_path / "encrypted", password=CANARY)
    said = []
    with pytest.raises(ValueError, match=f"environment variable {PASSWORD}, got none") as refused:
        signed("flac", **files.fields)
    said.append(str(refused.value))
    monkeypatch.setenv(PASSWORD, f"not-{CANARY}")
    with pytest.raises(ValueError, match="does not decrypt") as refused:
        signed("flac", **files.fields)
    said += [str(refused.value), repr(refused.value.__context__)]
    monkeypatch.setenv(PASSWORD, CANARY)
    data = signed("flac", **files.fields)
    assert claim(data, "flac", files.root).trusted_by == "Label Root"
    config = Credentials.model_validate(files.fields)
    said += [repr(config), identified_credentials(config).model_dump_json(), data.decode("latin-1"), caplog.text]
    assert not any(CANARY in text for text in said)


def test_unusable_certificates_and_keys_are_refused_with_the_reason(label, tmp_path):
    other = SignerFiles(tmp_path / "other")
    with pytest.raises(ValueError, match=r"private key of the certificate .* got another"):
        signed("flac", certificate=str(label.certificate), key=str(other.key))
    expired = SignerFiles(tmp_path / "expired", days=-1)
    with pytest.raises(ValueError, match="expected a certificate that is valid today"):
        signed("flac", **expired.fields)
    with pytest.raises(ValueError, match=r"expected a PEM file of certificates at .*no-such"):
        signed("flac", certificate=str(tmp_path / "no-such.pem"), key=str(label.key))
    with pytest.raises(ValueError, match=r"expected a private key at .*no-such"):
        signed("flac", certificate=str(label.certificate), key=str(tmp_path / "no-such.pem"))
    with pytest.raises(ValueError, match="expected a certificate for content credentials"):
        signed("flac", certificate=str(label.root), key=str(label.root_key))
    with pytest.raises(ValidationError, match="expected a certificate with its key"):
        Credentials(certificate=str(label.certificate))
    with pytest.raises(ValidationError, match="expected no key with the development certificate"):
        Credentials(key=str(label.key))


SIGN = """
import sys
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
key = serialization.load_pem_private_key(open(sys.argv[1], "rb").read(), None)
der = key.sign(sys.stdin.buffer.read(), ec.ECDSA(hashes.SHA256()))
raw = b"".join(number.to_bytes(32, "big") for number in utils.decode_dss_signature(der))
sys.stdout.buffer.write({"der": der, "raw": raw}[sys.argv[2]])
"""


@pytest.mark.parametrize("form", ["der", "raw"])
def test_a_program_may_hold_the_key_and_sign_in_either_form(form, label):
    command = (sys.executable, "-c", SIGN, str(label.key), form)
    read = claim(signed("wav", certificate=str(label.certificate), key_command=command), "wav", label.root)
    assert read is not None
    assert (read.trusted_by, read.problems) == ("Label Root", ())


def test_a_failing_or_wrong_signing_program_is_reported_without_its_arguments(label, tmp_path):
    other = SignerFiles(tmp_path / "other")
    failures = {
        "exit code 3": (sys.executable, "-c", "raise SystemExit(3)", CANARY),
        "FileNotFoundError": (str(tmp_path / "no-such-program"), CANARY),
        "another signature": (sys.executable, "-c", SIGN, str(other.key), "raw", CANARY),
    }
    for reason, command in failures.items():
        with pytest.raises(ValueError, match=reason) as refused:
            signed("flac", certificate=str(label.certificate), key_command=command)
        assert CANARY not in str(refused.value)
