"""`segue verify --store` on deliveries: a clip in another form is recognised, and other files fail."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from flows.cli import run_command
from schemas import Store
from schemas.tables import CLIPS
from stages.audio import SourceType, encode_audio
from stages.audio.marks import read_own_tags
from tests.worlds.delivered_clips import delivered_store
from tests.worlds.small_catalog import VERSION

Findings = dict[str, tuple[str, str]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return delivered_store(tmp_path_factory.mktemp("store"), ("opening", "test"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def delivered(store: Store, folder: Path, *words: str) -> Path:
    """The file of take 1 of `opening`, exported with the given options."""
    assert run_command(["export", str(folder / "d"), "--store", store.url, *words]) == 0
    (path,) = (folder / "d" / "clips").glob("opening_1.*")
    return path


def verify(store: Store, path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, Findings]:
    """The exit code, and verdict and words by subject."""
    capsys.readouterr()
    code = run_command(["verify", str(path), "--store", store.url, "--format", "json"])
    (findings,) = json.loads(capsys.readouterr().out).values()
    return code, {each["subject"]: (each["verdict"], each["words"]) for each in findings}


def changed(path: Path, sound: np.ndarray, rate: int, **tags: str) -> None:
    """Put other sound into a file, with its own tags and the given changes of them."""
    own = read_own_tags(io.BytesIO(path.read_bytes())) | tags
    path.write_bytes(encode_audio(sound.astype(np.float32), rate, "mp3", own, source=SourceType.TRAINED))


def sound_of(path: Path) -> tuple[np.ndarray, int]:
    samples, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    return samples.T, rate


@pytest.mark.parametrize(
    "words",
    [
        ("--format", "mp3"),
        ("--format", "mp3", "--sample-rate", "44100"),
        ("--format", "ogg"),
        ("--format", "wav", "--bit-depth", "24", "--sample-rate", "48000"),
    ],
)
def test_a_clip_in_another_form_is_verified(store, tmp_path, capsys, words: tuple[str, ...]) -> None:
    code, found = verify(store, delivered(store, tmp_path, *words), capsys)
    request = store.read(CLIPS, VERSION).to_pylist()[0]["request_id"]
    assert found["row"] == ("holds", f"a delivery of clip {request} take 1 in another form")
    assert found["sound"][0] == "holds"
    assert found["marks"][0] == "holds"
    assert code == 0


def test_the_sound_of_another_clip_under_a_clips_tags_fails(store, tmp_path, capsys) -> None:
    path = delivered(store, tmp_path, "--format", "mp3")
    (other,) = (tmp_path / "d" / "clips").glob("test_1.mp3")
    changed(path, *sound_of(other))
    code, found = verify(store, path, capsys)
    assert (code, found["row"][0]) == (1, "fails")
    assert "it sounds different" in found["row"][1]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda sound, rate: np.concatenate([sound[:, :-rate], 0 * sound[:, -rate:]], axis=1), "it sounds different"),
        (lambda sound, rate: sound[:, : -rate // 2], "s long, the clip"),
        (lambda sound, rate: 0.5 * sound, "LUFS, the clip at"),
        (lambda sound, rate: np.concatenate([sound, sound]), "it has 2 channels, the clip 1 channel"),
    ],
    ids=["silenced", "cut", "softer", "doubled"],
)
def test_a_changed_sound_fails_with_its_difference_from_the_clip(store, tmp_path, capsys, change, told) -> None:
    path = delivered(store, tmp_path, "--format", "mp3")
    sound, rate = sound_of(path)
    changed(path, change(sound, rate), rate)
    code, found = verify(store, path, capsys)
    assert (code, found["row"][0]) == (1, "fails")
    assert told in found["row"][1]


def test_a_file_whose_tags_name_another_model_fails(store, tmp_path, capsys) -> None:
    path = delivered(store, tmp_path, "--format", "mp3")
    changed(path, *sound_of(path), checkpoint="0123abcd")
    code, found = verify(store, path, capsys)
    assert (code, found["row"][0]) == (1, "fails")
    assert "its checkpoint is 0123abcd, the clip's " in found["row"][1]


def test_a_file_that_is_not_from_the_store_fails(store, tmp_path, capsys) -> None:
    path = tmp_path / "theirs.mp3"
    sound = 0.1 * np.sin(np.arange(32_000) / 20)[None].astype(np.float32)
    path.write_bytes(encode_audio(sound, 16_000, "mp3", {"request": "f" * 16, "take": "1"}, source=SourceType.TRAINED))
    code, found = verify(store, path, capsys)
    assert (code, found["row"][0]) == (1, "fails")
    assert "no clip of" in found["row"][1]
