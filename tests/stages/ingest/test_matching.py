"""Names in metadata: the recording that each means. The strictest form comes first, and a name that fits two means
neither."""

import pytest

from stages.ingest.listing import File
from stages.ingest.matching import NOTHING, SEVERAL, RecordingNames


def _names(*relatives: str) -> RecordingNames:
    return RecordingNames([File(f"/music/{relative}", relative, "1", 1) for relative in relatives])


def _found(names: RecordingNames, name: str, folder: str = "", everywhere: bool = False) -> tuple[str | None, str]:
    match = names.find(name, folder, everywhere)
    return match.recording and match.recording.relative, match.how


@pytest.mark.parametrize(
    ("name", "relative", "difference"),
    [
        ("sub/a.wav", "sub/a.wav", ""),
        ("./sub//a.wav", "sub/a.wav", ""),
        ("/music/sub/a.wav", "sub/a.wav", ""),
        ("e\u0301.wav", "\u00e9.wav", "Unicode form"),
        ("sub\\a.wav", "sub/a.wav", "separators"),
        ("SUB/A.wav", "sub/a.wav", "case"),
        ("Sub\\A.WAV", "sub/a.wav", "case"),
        ("sub/a", "sub/a.wav", "ending"),
        ("sub/a.mp3", "sub/a.wav", "ending"),
        ("mix.v2", "mix.v2.flac", "ending"),
    ],
)
def test_a_name_is_found_in_the_strictest_form_that_fits(name, relative, difference):
    how = f"names matched although they differ in {difference}" if difference else ""
    assert _found(_names("sub/a.wav", "\u00e9.wav", "mix.v2.flac", "other/b.wav"), name) == (relative, how)


@pytest.mark.parametrize("name", ["/old/disk/sub/a.wav", "C:\\Music\\sub\\a.wav", "a.wav"])
def test_a_name_from_another_disk_or_folder_is_matched_by_its_last_parts(name):
    names = _names("sub/a.wav", "sub/deep/b.wav")
    assert _found(names, name) == ("sub/a.wav", "names matched only by the last parts of their paths")


def test_an_exact_name_comes_before_every_looser_one():
    names = _names("a.wav", "A.wav", "a.flac", "sub/a.wav")
    assert _found(names, "A.wav") == ("A.wav", "")
    assert _found(names, "a.wav") == ("a.wav", "")


def test_a_name_that_fits_two_recordings_means_neither():
    names = _names("a.wav", "a.flac", "x/b.wav", "y/b.wav", "C.wav", "c.wav")
    for name in ("a", "a.mp3", "b.wav", "C.WAV"):
        assert names.find(name, "", everywhere=False) == SEVERAL
    assert names.find("z.wav", "", everywhere=False) == NOTHING


def test_only_a_manifest_describes_recordings_outside_its_folder():
    names = _names("album/song.wav", "other/Song.wav")
    assert _found(names, "Song.wav", "album")[0] == "album/song.wav"
    assert _found(names, "other/Song.wav", "album")[0] is None
    assert _found(names, "other/Song.wav", "album", everywhere=True) == ("other/Song.wav", "")


def test_a_relative_name_in_another_folder_is_another_file():
    assert _found(_names("mine/01.wav"), "theirs/01.wav")[0] is None


def test_a_sidecar_is_found_in_its_folder_by_a_name_in_another_form():
    names = _names("SONG.WAV", "sub/song.wav", "x.wav", "X.mp3")
    match = names.find_stem("Song")
    assert match.recording.relative == "SONG.WAV"
    assert "case" in match.how
    assert names.find_stem("sub/Song.wav").recording.relative == "sub/song.wav"
    assert names.find_stem("x").recording.relative == "x.wav"
    assert names.find_stem("package").recording is None
