"""`segue verify` on a delivery: a file without a signature is compared with the checksums beside it."""

import json
import shutil
from pathlib import Path

import pytest

from flows.cli import run_command
from tests.worlds.delivered_clips import delivered_store


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("delivered")
    store = delivered_store(folder / "store")
    assert run_command(["export", str(folder / "mp3"), "--format", "mp3", "--store", store.url]) == 0
    return folder / "mp3"


@pytest.fixture
def delivery(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A delivery as MP3, unsigned, that a test may change."""
    shutil.copytree(exported, tmp_path / "mp3")
    capsys.readouterr()
    return tmp_path / "mp3"


def change_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)


def test_an_unchanged_delivery_is_verified_in_one_line(delivery, capsys):
    assert run_command(["verify", str(delivery)]) == 0
    assert capsys.readouterr().out == f"{delivery}: 13 files, 8 sounds: all claims about them hold\n"


def test_a_changed_byte_of_an_unsigned_clip_is_reported_for_the_clip_and_for_its_folder(delivery, capsys):
    clip = delivery / "clips" / "opening_1.mp3"
    assert run_command(["verify", str(clip)]) == 0
    assert "holds  checksum: as it was delivered, byte for byte" in capsys.readouterr().out
    change_a_byte(clip)
    assert run_command(["verify", str(clip)]) == 1
    assert "fails  checksum: " in capsys.readouterr().out
    assert run_command(["verify", str(delivery)]) == 1
    told = capsys.readouterr().out
    assert f"{clip}\n    fails  checksum: {delivery}/SHA256SUMS says " in told
    assert told.endswith(f"{delivery}: 13 files, 8 sounds: 1 with failures\n")


def test_a_clip_is_found_in_its_delivery_from_any_folder(delivery, capsys, monkeypatch):
    change_a_byte(delivery / "clips" / "opening_2.mp3")
    monkeypatch.chdir(delivery / "clips")
    assert run_command(["verify", "opening_1.mp3"]) == 0
    assert run_command(["verify", "opening_2.mp3"]) == 1
    monkeypatch.chdir(delivery)
    assert run_command(["verify", "."]) == 1
    assert "\nclips/opening_2.mp3\n" in f"\n{capsys.readouterr().out}"


def test_removed_added_and_changed_files_of_a_delivery_are_reported(delivery, capsys):
    (delivery / "clips" / "opening_1.mp3").unlink()
    shutil.copy(delivery / "clips" / "opening_2.mp3", delivery / "clips" / "added.mp3")
    with (delivery / "catalog.csv").open("a") as file:
        file.write("one more line\n")
    assert run_command(["verify", str(delivery), "--format", "json"]) == 1
    findings = {Path(name).name: each for name, each in json.loads(capsys.readouterr().out).items()}
    checksums = {name: (each[0]["verdict"], each[0]["words"], len(each)) for name, each in findings.items()}
    place = f"{delivery}/SHA256SUMS"
    assert checksums["opening_1.mp3"] == ("fails", f"{place} lists it, but it is missing", 1)
    assert checksums["added.mp3"][:2] == ("note", f"{place} does not list it: it was added, or delivered earlier")
    assert checksums["catalog.csv"][0] == "fails"
    assert checksums["metadata.csv"] == ("holds", f"as it was delivered, byte for byte ({place})", 1)
    assert {each["subject"] for each in findings["added.mp3"]} == {"checksum", "marks", "signature"}


def test_a_folder_without_valid_checksums_is_refused_with_the_reason(delivery, capsys):
    (delivery / "SHA256SUMS").unlink()
    assert run_command(["verify", str(delivery / "clips" / "opening_1.mp3")]) == 0
    assert "  checksum: " not in capsys.readouterr().out
    assert run_command(["verify", str(delivery)]) == 2
    assert "expected a delivery, with SHA256SUMS in it" in capsys.readouterr().err
    (delivery / "SHA256SUMS").write_text("<html>\n")
    assert run_command(["verify", str(delivery)]) == 2
    assert "expected a SHA-256 and a path in line 1" in capsys.readouterr().err
    assert run_command(["verify", str(delivery / "clips" / "opening_1.mp3")]) == 0
    assert "note   checksum: cannot be compared: expected a SHA-256" in capsys.readouterr().out
