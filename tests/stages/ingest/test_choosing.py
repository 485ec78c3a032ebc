"""Glob patterns: the names and paths that each matches."""

import pytest

from stages.ingest.choosing import Chosen


@pytest.mark.parametrize(
    ("pattern", "taken", "left"),
    [
        ("*.wav", ("a.wav", "A.WAV", "deep/er/b.wav"), ("a.wave", "wav", "a.flac")),
        ("live", ("live/a.wav", "x/live/a.wav"), ("alive/a.wav", "live.wav")),
        ("live/", ("live/a.wav", "x/live/a.wav"), ("live.wav",)),
        ("live/**/b*", ("live/b.mp3", "live/x/y/b1.mp3"), ("live/c.mp3", "x/live/b.mp3")),
        ("albums/*/x.flac", ("albums/q/x.flac",), ("albums/q/r/x.flac", "x.flac")),
        ("albums/2020", ("albums/2020/a.wav", "albums/2020/b/c.wav"), ("albums/2021/a.wav",)),
        ("track [0-9].wav", ("track 1.wav",), ("track x.wav",)),
        ("a.b?.wav", ("a.bc.wav",), ("a.b.wav", "aXbc.wav")),
    ],
)
def test_a_pattern_matches_names_anywhere_or_paths_from_the_source(pattern, taken, left):
    chosen = Chosen((pattern,))
    assert all(chosen.includes(path) for path in taken)
    assert not any(chosen.includes(path) for path in left)
    excluding = Chosen((), (pattern,))
    assert all(excluding.excludes_any_part(path) for path in taken)
    assert not any(excluding.excludes_any_part(path) for path in left)


def test_files_of_systems_and_programs_are_excluded_by_default():
    chosen = Chosen()
    for path, part in {
        ".hidden.wav": ".hidden.wav",
        "a/.git/x/y.wav": "a/.git",
        "@eaDir/a.mp3": "@eaDir",
        "x/node_modules/y/z.wav": "x/node_modules",
        "__MACOSX/._a.wav": "__MACOSX",
        "$Recycle.Bin/a.wav": "$Recycle.Bin",
        "#recycle/a.wav": "#recycle",
    }.items():
        assert chosen.excludes_any_part(path) == part
        assert chosen.excluding_pattern(part.rsplit("/", 1)[-1], part)
    for path in ("a.wav", "sub.folder/b.wav", "#1 hit.wav", "$ound.wav"):
        assert chosen.excludes_any_part(path) is None
        assert chosen.includes(path)
