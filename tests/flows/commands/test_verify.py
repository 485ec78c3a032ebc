"""`segue verify`: what holds, what fails and why, for files as they were made, changed and encoded again."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from flows.cli import run_command
from schemas.identity import canonical
from schemas.tables import CLIPS, RECONSTRUCTIONS
from schemas.weights import folder_digest
from stages import decode
from stages.audio import SourceType, encode_audio
from stages.audio.marks import read_own_tags
from stages.decode import Config
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import run_stage
from tests.stages.test_decode import context_for, new_store
from tests.worlds.signers import SignerFiles
from tests.worlds.tiny_codec import SAMPLE_RATE, codec_folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory):
    """A store with signed clips, and their signer."""
    folder = tmp_path_factory.mktemp("verify")
    label, codec, store = (
        SignerFiles(folder / "label"),
        codec_folder(folder / "codec", loudness=30.0),
        new_store(folder / "s"),
    )
    config = Config.model_validate({"codec": str(codec), "credentials": label.fields})
    identified = decode.dependencies(config, lambda reference: None).config
    context = replace(context_for(store), config=canonical(identified, {str(codec): folder_digest(codec)}))
    run_stage(ConfiguredStage("decode", decode, config), context)
    return store, label


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def verify(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, tuple[str, str]]]:
    """Return the exit code and, by subject, verdict and words for one file."""
    code = run_command(["verify", *(str(word) for word in words), "--format", "json"])
    (findings,) = json.loads(capsys.readouterr().out).values()
    return code, {each["subject"]: (each["verdict"], each["words"]) for each in findings}


def clip_of(world, tmp_path: Path) -> tuple[Path, bytes]:
    store, _ = world
    row = store.read(CLIPS, "d").to_pylist()[2]
    data = store.read_bytes(row["path"])
    path = tmp_path / "clip.flac"
    path.write_bytes(data)
    return path, data


def test_all_claims_of_an_unchanged_clip_hold(world, tmp_path, capsys):
    store, label = world
    path, _ = clip_of(world, tmp_path)
    code, found = verify(capsys, path, "--trust", label.root, "--store", store.url, "--render")
    assert found["render"] == ("holds", "decoded again: the same samples, bit for bit")
    held = dict.fromkeys(("marks", "signature", "claim", "row", "render"), "holds")
    assert {subject: verdict for subject, (verdict, _) in found.items()} == held | {"codes": "note"}
    assert "cannot be generated again here" in found["codes"][1]  # this store never had the model
    assert code == 0
    assert "byte for byte" in found["row"][1]
    assert "bit for bit" in found["render"][1]


def test_the_signature_of_an_untrusted_signer_is_valid_but_fails(world, tmp_path, capsys):
    path, _ = clip_of(world, tmp_path)
    code, found = verify(capsys, path)
    assert code == 1
    assert found["signature"][0] == "fails"
    assert "valid, by 'Some Label'" in found["signature"][1]


def test_a_changed_byte_is_reported(world, tmp_path, capsys):
    store, label = world
    path, data = clip_of(world, tmp_path)
    changed = bytearray(data)
    changed[-40] ^= 1
    path.write_bytes(changed)
    code, found = verify(capsys, path, "--trust", label.root, "--store", store.url)
    assert code == 1
    assert "changed after it was signed" in found["signature"][1]
    assert "has other bytes" in found["row"][1]


def test_a_file_that_was_encoded_again_is_reported_as_signed_before(world, tmp_path, capsys):
    store, label = world
    path, data = clip_of(world, tmp_path)
    samples, rate = soundfile.read(io.BytesIO(data), always_2d=True, dtype="float32")
    tags = read_own_tags(io.BytesIO(data))
    path.write_bytes(encode_audio(samples.T * 0.9, rate, "mp3", tags, source=SourceType.TRAINED))
    code, found = verify(capsys, path, "--trust", label.root, "--store", store.url, "--render")
    assert code == 1
    assert "encoded again" in found["signature"][1]
    assert found["row"][0] == found["render"][0] == "fails"


def test_a_file_without_marks_fails(tmp_path, capsys):
    path = tmp_path / "plain.wav"
    path.write_bytes(encode_audio(np.full((1, 8_000), 0.1, np.float32), 16_000, "wav"))
    code, found = verify(capsys, path)
    assert code == 1
    assert found["marks"][0] == "fails"
    assert found["signature"][0] == "note"


def test_an_unsigned_file_with_marks_holds(tmp_path, capsys):
    path = tmp_path / "clip.ogg"
    sound = np.full((1, 8_000), 0.1, np.float32)
    path.write_bytes(encode_audio(sound, 16_000, "ogg", source=SourceType.TRAINED))
    code, found = verify(capsys, path)
    assert (code, found["marks"][0], found["signature"][0]) == (0, "holds", "note")


def test_a_decoded_segment_of_a_codec_is_recognised_as_a_file_of_its_store(tmp_path, capsys):
    store = new_store(tmp_path / "s")
    sound = np.zeros((1, SAMPLE_RATE), np.float32)
    data = encode_audio(sound, SAMPLE_RATE, "flac", source=SourceType.TRAINED)
    digest = hashlib.sha256(data).hexdigest()
    row = {"checkpoint_id": "c0dec", "number": 3, "decoded": "audio/3-decoded.flac", "decoded_sha256": digest}
    store.write_shard(RECONSTRUCTIONS, "1", "c0dec", pa.Table.from_pylist([row], schema=RECONSTRUCTIONS.schema), "k")
    (tmp_path / "3.flac").write_bytes(data)
    code, findings = verify(capsys, tmp_path / "3.flac", "--store", tmp_path / "s")
    assert findings["row"] == ("holds", "segment 3 of the evaluation of codec c0dec, byte for byte")
    assert code == 0
