"""Deliveries: exported clips are complete, well named, marked and described, and a second export writes nothing."""

import csv
import hashlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from schemas import Store
from schemas.queries.picks import Picks
from schemas.tables import CLIPS
from stages.audio import measure_audio
from stages.audio.credentials import Anchor, Credentials, Signer, read_credentials
from stages.audio.marks import read_marks, read_own_tags
from stages.audio.samples import resample
from stages.delivery.choosing import choose_clips
from stages.delivery.delivering import Delivery, deliver
from stages.delivery.making import Form, Maker
from stages.ingest.config import Limits
from stages.ingest.probe import Refused, probe_recording
from stages.pipeline.contract import Stopped
from tests.worlds.delivered_clips import NAMES, SECRETS, delivered_store
from tests.worlds.signers import SignerFiles
from tests.worlds.small_catalog import VERSION, write

CLIP_FILES = {
    *("opening_1.flac", "opening_2.flac", "_.._etc_passwd_1.flac", "CON_1.flac", "test_1.flac", "a_b________1.flac"),
    *(f"Opening_1-{3:016x}-1.flac", "Ünïcode ♪ 夜想曲_1.flac"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return delivered_store(tmp_path_factory.mktemp("store"))


def export(store: Store, folder: Path | str, form: Form | None = None, prune: bool = False, **choice) -> Delivery:
    maker = Maker(store, form or Form(), choice.pop("signer", None))
    return deliver(store, choose_clips(store, **choice), str(folder), maker, "{name}_{take}", prune)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_copy_has_the_bytes_of_the_store_a_catalog_and_valid_checksums(store, tmp_path):
    done = export(store, tmp_path / "d")
    assert (done.written, done.kept, done.failed, done.left) == (8, 0, [], [])
    files = contents(tmp_path / "d")
    assert {name.removeprefix("clips/") for name in files if name.startswith("clips/")} == CLIP_FILES
    assert files["clips/opening_1.flac"] == store.read_bytes(store.read(CLIPS, VERSION).to_pylist()[0]["path"])
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"],
        cwd=tmp_path / "d",
        capture_output=True,
        text=True,
        check=True,
    )
    assert checked.stdout.count(": OK\n") == 8 + 5
    rows = list(csv.DictReader(io.StringIO(files["catalog.csv"].decode())))
    first = rows[0]
    assert (first["file"], first["name"], first["take"], first["made"]) == (
        *("clips/opening_1.flac", "opening", "1", "2026-05-04"),
    )
    assert (first["training_licences"], first["score_clap_similarity"]) == ("CC-BY-4.0 (2), none (1)", "0.1")
    assert first["sha256"] == hashlib.sha256(files["clips/opening_1.flac"]).hexdigest()
    entries = json.loads(files["catalog.json"])["clips"]
    assert [entry["file"] for entry in entries] == [row["file"] for row in rows]
    assert entries[0]["scores"]["clap_similarity"] == 0.1
    assert files["metadata.csv"].decode().splitlines()[0].startswith("file_name,title,")


def test_only_the_licences_of_the_training_set_leave_the_store(store, tmp_path):
    export(store, tmp_path / "d", Form("mp3", 44_100))
    for name, data in contents(tmp_path / "d").items():
        assert not any(secret.encode() in data for secret in SECRETS), name


def test_a_second_export_writes_nothing_and_a_changed_clip_is_one_file(tmp_path):
    store = delivered_store(tmp_path / "s")
    export(store, tmp_path / "d")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "d").rglob("*")}
    done = export(store, tmp_path / "d")
    assert (done.written, done.kept, done.other_files) == (0, 8, 0)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "d").rglob("*")} == before
    rows = store.read(CLIPS, VERSION).to_pylist()
    data = store.read_bytes(rows[1]["path"])
    store.write_bytes("audio/other.flac", data)
    changed = rows[2] | {"path": "audio/other.flac", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    write(store, CLIPS, [*rows[:2], changed, *rows[3:]])
    done = export(store, tmp_path / "d")
    assert (done.written, done.kept) == (1, 7)
    written = [path.name for path, when in before.items() if path.is_file() and path.stat().st_mtime_ns != when]
    assert [name for name in written if name.endswith(".flac")] == ["_.._etc_passwd_1.flac"]


@pytest.mark.parametrize(
    ("form", "subtype"),
    [
        (Form("mp3", 44_100), "MPEG_LAYER_III"),
        (Form("ogg", 48_000), "VORBIS"),
        (Form("wav", 48_000, 24), "PCM_24"),
        (Form(None, None, 24), "PCM_24"),
        (Form(None, 44_100), "PCM_16"),
    ],
)
def test_clips_in_another_form_have_its_rate_and_depth_and_their_loudness_tags_and_marks(
    store, tmp_path, form, subtype
):
    export(store, tmp_path / "d", form, best=1, by="take")
    rows = json.loads((tmp_path / "d" / "catalog.json").read_text())["clips"]
    clips = {(row["request_id"], row["take"]): row for row in store.read(CLIPS, VERSION).to_pylist()}
    assert len(rows) == len(NAMES)
    for row in rows:
        data = (tmp_path / "d" / row["file"]).read_bytes()
        heard, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
        clip = clips[row["request"], row["take"]]
        assert soundfile.info(io.BytesIO(data)).subtype == subtype
        assert rate == row["sample_rate"] == (form.sample_rate or 16_000)
        measures = measure_audio(heard.T, rate)
        assert measures.true_peak is not None
        assert measures.true_peak <= -1.0
        assert row["loudness"] == pytest.approx(measures.loudness, abs=0.01)
        assert measures.loudness == pytest.approx(clip["loudness"], abs=0.3)
        tags = read_own_tags(io.BytesIO(data))
        assert (tags["request"], tags["take"]) == (row["request"], str(row["take"]))
        assert tags["training_licences"] == "CC-BY-4.0 (2), none (1)"
        assert {mark.term for mark in read_marks(io.BytesIO(data))} == {"trainedAlgorithmicMedia"}


def test_resampling_moves_no_sound_in_time(store, tmp_path):
    export(store, tmp_path / "d", Form("wav", 48_000, 24), requests={f"{0:016x}"}, best=1)
    heard, _ = soundfile.read(tmp_path / "d" / "clips" / "opening_1.wav", dtype="float32", always_2d=True)
    source, _ = soundfile.read(store.path(store.read(CLIPS, VERSION).to_pylist()[0]["path"]), always_2d=True)
    inside = slice(200, -200)  # at its ends, a sound rings differently at every rate
    back, source = resample(heard.T, 48_000, 16_000)[0][inside], source[inside, 0]
    gain = float(back @ source / (source @ source))
    assert np.abs(back - gain * source).max() < 0.01 * np.abs(back).max()


def test_a_clip_in_another_form_is_signed_last(store, tmp_path):
    label = SignerFiles(tmp_path / "label")
    signer = Signer(Credentials.model_validate(label.fields))
    export(store, tmp_path / "d", Form("mp3", 44_100), requests={f"{2:016x}"}, signer=signer)
    data = (tmp_path / "d" / "clips" / "CON_1.mp3").read_bytes()
    claim = read_credentials(io.BytesIO(data), "mp3", Anchor.read(label.root))
    assert claim is not None
    assert (claim.problems, claim.trusted_by) == ((), "Label Root")
    assert (claim.generation["request"], claim.generation["take"]) == (f"{2:016x}", 1)
    assert export(store, tmp_path / "d", Form("mp3", 44_100), requests={f"{2:016x}"}, signer=signer).written == 0


def test_clips_are_chosen_by_conditions_scores_and_picks(store):
    def names(**choice):
        return [(each.request["name"], each.clip["take"]) for each in choose_clips(store, **choice)]

    opening = f"{0:016x}"
    assert names(where="name = 'opening'") == [("opening", 1), ("opening", 2)]
    assert names(where="name = 'opening' AND scores.clap_similarity > 0.5") == [("opening", 2)]
    assert names(where="name = 'opening'", best=1, by="clap_similarity") == [("opening", 2)]
    assert names(where="name = 'opening'", best=1, by="-clap_similarity") == [("opening", 1)]
    assert names(requests={opening}, best=1, by="clap_similarity", picks=Picks({(opening, 2): "refuse"})) == [
        ("opening", 1)
    ]
    assert names(picks=Picks({(opening, 2): "pick", (f"{4:016x}", 1): "pick"})) == [("opening", 2), ("test", 1)]
    with pytest.raises(ValueError, match=r"(?s)the columns of clips, requests, .*scores.*clap_similarity"):
        choose_clips(store, where="clap_similarty > 0")


def test_a_pick_of_a_missing_clip_is_an_error_and_its_refusal_is_not(store):
    opening = f"{0:016x}"
    picked = Picks({(opening, 1): "pick", (opening, 7): "pick", ("gone", 1): "pick"})
    with pytest.raises(
        ValueError, match=rf"got 2 of 3 that are not: take 7 of {opening}, take 1 of gone; .*pick again"
    ):
        choose_clips(store, picks=picked)
    assert len(choose_clips(store, picks=Picks({("gone", 1): "refuse"}))) == 8


def test_a_retaken_clip_is_delivered_with_the_seed_of_its_own_codes(tmp_path):
    store = delivered_store(tmp_path / "s")
    rows = store.read(CLIPS, VERSION).to_pylist()
    write(store, CLIPS, [rows[0] | {"seed": 4242, "retake": 1}, *(row | {"seed": None} for row in rows[1:])])
    export(store, tmp_path / "d", requests={f"{0:016x}"})
    first, second = json.loads((tmp_path / "d" / "catalog.json").read_text())["clips"]
    assert first["seed"] == 4242
    assert second["seed"] == choose_clips(store)[1].request["seed"]


def test_clips_no_longer_chosen_are_reported_and_removed_on_request(store, tmp_path):
    export(store, tmp_path / "d")
    done = export(store, tmp_path / "d", where="name = 'opening'")
    assert (done.kept, len(done.left), done.removed) == (2, 6, 0)
    assert len(list((tmp_path / "d" / "clips").iterdir())) == 8
    assert "passwd" not in (tmp_path / "d" / "SHA256SUMS").read_text()
    done = export(store, tmp_path / "d", where="name = 'opening'", prune=True)
    assert (done.kept, len(done.left), done.removed) == (2, 0, 6)
    assert len(list((tmp_path / "d" / "clips").iterdir())) == 2


def test_other_folders_and_deliveries_of_other_stores_are_left_alone(store, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.doc").write_text("years of work")
    with pytest.raises(
        ValueError, match=r"expected an empty folder or an earlier delivery .*thesis\.doc.* give another"
    ):
        export(store, theirs)
    assert contents(theirs) == {"thesis.doc": b"years of work"}
    other = delivered_store(tmp_path / "other")
    export(other, tmp_path / "d", where="name = 'opening'")
    with pytest.raises(ValueError, match="expected a delivery of this store, got one of another"):
        export(store, tmp_path / "d")


def test_a_clip_with_a_missing_file_is_skipped_alone(tmp_path):
    store = delivered_store(tmp_path / "s")
    row = store.read(CLIPS, VERSION).to_pylist()[3]
    store.remove(row["path"])
    done = export(store, tmp_path / "d")
    assert done.written == 7
    ((file, reason),) = done.failed
    assert file.startswith("clips/")
    assert "got nothing there: `segue run decode` makes it again" in reason
    assert len((tmp_path / "d" / "catalog.csv").read_text().splitlines()) == 1 + 7


def test_a_stopped_export_is_completed_by_the_next(store, tmp_path):
    asked = 0

    def stops_in_the_middle() -> None:
        nonlocal asked
        asked += 1
        if asked == 5:
            raise Stopped("asked to")

    arguments = (store, choose_clips(store), str(tmp_path / "d"), Maker(store, Form("ogg")), "{name}_{take}")
    with pytest.raises(Stopped):
        deliver(*arguments, check_stopped=stops_in_the_middle)
    assert list((tmp_path / "d" / "clips").iterdir())
    assert not (tmp_path / "d" / "SHA256SUMS").exists()
    deliver(*arguments)
    export(store, tmp_path / "undisturbed", Form("ogg"))
    assert contents(tmp_path / "d") == contents(tmp_path / "undisturbed")


KILLED = """
import os, sys
import stages.delivery.folder as folder
from schemas import Store
from stages.delivery.choosing import choose_clips
from stages.delivery.delivering import deliver
from stages.delivery.making import Form, Maker

class Dying(folder.DeliveryFolder):
    written = 0
    def write(self, name, data):
        Dying.written += 1
        if Dying.written == 6:
            open(self._path(f"clips/.{name[6:]}.0.inprogress"), "wb").write(data[:99])
            os.kill(os.getpid(), 9)
        return super().write(name, data)

import stages.delivery.delivering as delivering
delivering.DeliveryFolder = Dying
store = Store(sys.argv[1])
deliver(store, choose_clips(store), sys.argv[2], Maker(store, Form("mp3", 44_100)), "{name}_{take}")
"""


def test_a_killed_export_is_completed_by_the_next(store, tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, store.root, str(tmp_path / "d")], check=False)
    assert killed.returncode == -9
    assert any(path.name.endswith(".inprogress") for path in (tmp_path / "d" / "clips").iterdir())
    assert not (tmp_path / "d" / "SHA256SUMS").exists()
    export(store, tmp_path / "d", Form("mp3", 44_100))
    export(store, tmp_path / "undisturbed", Form("mp3", 44_100))
    assert contents(tmp_path / "d") == contents(tmp_path / "undisturbed")


def test_ingest_notices_the_mark_of_a_delivered_clip_and_refuses_it(store, tmp_path):
    export(store, tmp_path / "d", Form("mp3", 44_100), where="name = 'test'")
    refused = probe_recording(str(tmp_path / "d" / "clips" / "test_1.mp3"), Limits())
    assert isinstance(refused, Refused)
    assert refused.kind == "generated"
    taken = probe_recording(str(tmp_path / "d" / "clips" / "test_1.mp3"), Limits(generated="keep"))
    assert not isinstance(taken, Refused)


def test_hugging_faces_audio_folder_reads_a_delivery_with_any_names(store, tmp_path, monkeypatch):
    import types

    import datasets

    # It asks for torchcodec before it looks at its input, which is a path and not sound to encode.
    encoders = types.ModuleType("torchcodec.encoders")
    encoders.AudioEncoder = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchcodec", types.ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.encoders", encoders)
    export(store, tmp_path / "d")
    loaded = datasets.load_dataset(str(tmp_path / "d"), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    rows = list(loaded["train"].cast_column("audio", datasets.Audio(decode=False)))
    assert isinstance(loaded["train"].features["audio"], datasets.Audio)
    assert {Path(row["audio"]["path"]).name for row in rows} == CLIP_FILES
    assert {row["take"] for row in rows} == {1, 2}
    assert rows[0]["description"] == "A calm ambient piece with bells, number 0"
    shutil.rmtree(tmp_path / "cache")


def test_the_page_links_every_clip_and_escapes_text(store, tmp_path):
    from html.parser import HTMLParser
    from urllib.parse import unquote

    class Links(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.links: list[str] = []
            self.tags: list[str] = []

        def handle_starttag(self, tag, attrs):
            self.tags.append(tag)
            self.links += [value for name, value in attrs if name == "href"]

    export(store, tmp_path / "d")
    page = (tmp_path / "d" / "index.html").read_text()
    parser = Links()
    parser.feed(page)
    clips = {unquote(link).removeprefix("clips/") for link in parser.links if link.startswith("clips/")}
    assert clips == CLIP_FILES
    assert parser.tags.count("script") == parser.tags.count("style") == 1
    assert "<b>" not in page
