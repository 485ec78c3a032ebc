"""Listing: all recordings in a stable order; everything odd at a source is reported, and nothing hangs."""

import os
import socket

import fsspec
import pytest

from stages.ingest.choosing import EXCLUDED, Chosen
from stages.ingest.listing import LISTED, list_source
from tests.worlds.recordings import write


def _names(folder, **arguments):
    return [file.relative for file in list_source(str(folder), **arguments).recordings]


def _kinds(folder):
    return {os.path.relpath(reject.key, folder): reject.kind for reject in list_source(str(folder)).rejects}


def test_recordings_are_listed_in_order_and_other_files_are_not(tmp_path):
    for name in ("b/2.wav", "b/1.FLAC", "a.mp3", "cover.jpg", "notes.txt", ".hidden.wav", ".git/x.wav", "b/.x/y.ogg"):
        write(tmp_path / name, b"x")
    write(tmp_path / "metadata.csv", b"x")
    listing = list_source(str(tmp_path))
    assert [file.relative for file in listing.recordings] == ["a.mp3", "b/1.FLAC", "b/2.wav"]
    assert [file.uri for file in listing.recordings] == [
        str(tmp_path / name) for name in ("a.mp3", "b/1.FLAC", "b/2.wav")
    ]
    assert [file.relative for file in listing.metadata] == ["metadata.csv"]
    assert listing.rejects == []


def _remarks(listing):
    return {(remark.what, remark.location): (remark.count, list(remark.examples)) for remark in listing.remarks.all()}


def test_remarks_state_excluded_files_by_pattern_and_unknown_ones_by_ending(tmp_path):
    names = ["a.wav", "b.dsf", "sub/c.DSF", "no ending", "cover.jpg", ".hidden.wav", ".notes", "b.cue", "x.tmp.wav"]
    for name in (*names, ".git/x.wav", "sub/@eaDir/y.wav", "node_modules/z/q.wav", "live/l.flac"):
        write(tmp_path / name, b"x")
    for listing in (
        list_source(str(tmp_path), chosen=Chosen(("*.wav",), (*EXCLUDED, "*.tmp.*"))),
        list_source(_in_memory(tmp_path), chosen=Chosen(("*.wav",), (*EXCLUDED, "*.tmp.*"))),
    ):
        assert [file.relative for file in listing.recordings] == ["a.wav"]
        unknown = "files ignored because of their ending"
        assert _remarks(listing) == {
            (unknown, ".dsf"): (2, ["b.dsf", "sub/c.DSF"]),
            (unknown, "no ending"): (1, ["no ending"]),
            ("folders excluded by ingest.exclude", ".*"): (1, [".git"]),
            ("folders excluded by ingest.exclude", "@eaDir"): (1, ["sub/@eaDir"]),
            ("folders excluded by ingest.exclude", "node_modules"): (1, ["node_modules"]),
            ("recordings excluded by ingest.exclude", ".*"): (1, [".hidden.wav"]),
            ("recordings excluded by ingest.exclude", "*.tmp.*"): (1, ["x.tmp.wav"]),
            ("recordings that ingest.include does not name", ""): (1, ["live/l.flac"]),
        }


def _in_memory(folder) -> str:
    """The URL of a copy of a folder in memory."""
    memory = fsspec.filesystem("memory")
    for path in folder.rglob("*"):
        if path.is_file():
            memory.pipe_file(f"/{folder.name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return f"memory://{folder.name}"


def test_a_stamp_depends_only_on_size_and_time(tmp_path):
    path = tmp_path / "a.wav"
    write(path, b"x")
    stamp = list_source(str(tmp_path)).recordings[0].stamp
    os.chmod(path, 0o600)
    assert list_source(str(tmp_path)).recordings[0].stamp == stamp
    os.utime(path, ns=(0, 1))
    assert list_source(str(tmp_path)).recordings[0].stamp != stamp


def test_circular_links_are_refused_and_others_followed_once(tmp_path):
    write(tmp_path / "music" / "real" / "a.wav", b"x")
    write(tmp_path / "elsewhere" / "b.wav", b"x")
    music = tmp_path / "music"
    os.symlink(music, music / "real" / "up")
    os.symlink("self.wav", music / "self.wav")
    os.symlink("two", music / "one")
    os.symlink("one", music / "two")
    os.symlink(tmp_path / "elsewhere", music / "far")
    os.symlink(tmp_path / "elsewhere", music / "far again")
    os.symlink(music / "real", music / "again")
    os.symlink(music / "real" / "a.wav", music / "link.wav")
    os.symlink("nowhere.wav", music / "broken.wav")
    os.symlink("nowhere", music / "not a recording")
    assert _names(music) == ["far/b.wav", "link.wav", "real/a.wav"]
    expected = {"real/up": "link loop", "self.wav": "link loop", "one": "link loop", "two": "link loop"}
    assert _kinds(music) == {**expected, "broken.wav": "broken link"}


def test_a_web_of_links_lists_every_folder_once(tmp_path):
    folders = [tmp_path / "elsewhere" / str(number) for number in range(12)]
    for folder in folders:
        write(folder / "x.wav", b"x")
        for other in folders:
            os.symlink(other, folder / f"to {other.name}")
    (tmp_path / "music").mkdir()
    os.symlink(folders[0], tmp_path / "music" / "in")
    assert len(_names(tmp_path / "music")) == 12


def test_pipes_sockets_and_devices_are_refused_without_being_opened(tmp_path):
    write(tmp_path / "good.wav", b"x")
    os.mkfifo(tmp_path / "pipe.wav")
    os.mkfifo(tmp_path / "some pipe")
    os.symlink("/dev/zero", tmp_path / "device.wav")
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(os.path.relpath(tmp_path / "s.wav"))
        assert _names(tmp_path) == ["good.wav"]
        assert _kinds(tmp_path) == {"pipe.wav": "not a file", "device.wav": "not a file", "s.wav": "not a file"}
    assert all(reject.stamp == LISTED for reject in list_source(str(tmp_path)).rejects)


def test_a_folder_that_cannot_be_read_is_refused_and_listed_as_unreadable(tmp_path, monkeypatch):
    write(tmp_path / "good.wav", b"x")
    write(tmp_path / "closed" / "in.wav", b"x")
    opened = os.open

    def refusing(path, *arguments, **named):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **named)

    monkeypatch.setattr(os, "open", refusing)
    listing = list_source(str(tmp_path))
    assert [file.relative for file in listing.recordings] == ["good.wav"]
    assert listing.rejects[0].kind == "unreadable"
    assert listing.is_in_unreadable_folder(str(tmp_path / "closed" / "in.wav"))
    assert not listing.is_in_unreadable_folder(str(tmp_path / "closed.wav"))


def test_a_file_without_permission_is_refused(tmp_path, monkeypatch):
    write(tmp_path / "a.wav", b"x")
    write(tmp_path / "b.wav", b"x")
    (tmp_path / "a.wav").chmod(0o000)
    # As the system answers anyone except root, who may open files of every mode.
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("a.wav"))
    assert _kinds(tmp_path) == {"a.wav": "unreadable"}
    assert _names(tmp_path) == ["b.wav"]


def test_a_store_inside_the_source_is_not_part_of_it(tmp_path):
    write(tmp_path / "a.wav", b"x")
    write(tmp_path / "store" / "clips" / "x.flac", b"x")
    write(tmp_path / "store" / "demo" / "y.flac", b"x")
    assert _names(tmp_path, store=f"file://{tmp_path}/store") == ["a.wav"]
    assert _names(tmp_path / "store" / "demo", store=f"file://{tmp_path}/store") == ["y.flac"]
    memory = fsspec.filesystem("memory")
    for name in ("a.wav", "store/clips/x.flac"):
        memory.pipe_file(f"/listed/{name}", b"x")
    recordings = list_source("memory://listed", "memory://listed/store").recordings
    assert [file.relative for file in recordings] == ["a.wav"]


def test_the_store_itself_is_refused_as_a_source(tmp_path):
    write(tmp_path / "clips" / "x.flac", b"x")
    (tmp_path / "link").symlink_to(tmp_path)
    fsspec.filesystem("memory").pipe_file("/itself/clips/x.flac", b"x")
    for source, store in (
        (str(tmp_path), f"file://{tmp_path}/"),
        (str(tmp_path / "link"), f"file://{tmp_path}"),
        ("memory://itself/", "memory://itself"),
    ):
        with pytest.raises(ValueError, match="a source outside the store, got the store itself"):
            list_source(source, store)


def test_a_single_file_is_a_source(tmp_path):
    write(tmp_path / "a.wav", b"x")
    assert _names(tmp_path / "a.wav") == ["a.wav"]


def test_other_filesystems_are_listed_in_the_same_way():
    memory = fsspec.filesystem("memory")
    for name in ("b/2.wav", "a b.ogg", "b/.hidden.wav", ".x/y.wav", "metadata.csv"):
        memory.pipe_file(f"/alike/{name}", b"x")
    listing = list_source("memory://alike")
    assert [file.relative for file in listing.recordings] == ["a b.ogg", "b/2.wav"]
    assert listing.recordings[0].uri == "memory:///alike/a b.ogg"
    stamp = listing.recordings[0].stamp
    assert list_source("memory://alike").recordings[0].stamp == stamp
    memory.pipe_file("/alike/a b.ogg", b"y")
    assert list_source("memory://alike").recordings[0].stamp != stamp


@pytest.mark.parametrize("source", ["/nowhere/at/all", "memory://nothing", "gopher://x/y"])
def test_a_missing_source_is_an_error_of_one_line(source):
    with pytest.raises(ValueError, match="expected") as caught:
        list_source(source)
    assert source in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_source_is_an_error_and_drops_nothing(tmp_path):
    with pytest.raises(ValueError, match="mounted"):
        list_source(str(tmp_path))
