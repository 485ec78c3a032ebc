"""Names of delivered files: safe on every file system and unique; an error in a template says what is allowed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from stages.delivery.choosing import ChosenClip
from stages.delivery.naming import LONGEST, check_template, clip_names, safe_name


def clip(name: str | None, request: str = "a1", take: int = 1, title: str | None = None) -> ChosenClip:
    request_row = {"name": name, "title": title, "line": 3, "bpm": 97.6, "key": "A minor"}
    clip_row = {"request_id": request, "take": take, "seconds": 7.96, "checkpoint_id": "c1"}
    return ChosenClip(clip_row, request_row, {"seed": 7}, {})


@settings(max_examples=60)
@given(some.text(max_size=300) | some.text(alphabet="/\\.:~- \0\n\u202e", max_size=20))
def test_any_text_becomes_one_safe_name(text):
    name = safe_name(text)
    assert name
    assert name == name.strip(". ")
    assert name[0] not in ".-~"
    assert not set(name) & set('<>:"/\\|?*')
    assert name.isprintable()
    assert len(name.encode()) <= LONGEST + 1
    assert safe_name(name) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("../../etc/passwd", "_.._etc_passwd"),
        ("CON", "_CON"),
        ("lpt1.wav", "_lpt1.wav"),
        ("-rf", "_-rf"),
        ("Cafe\u0301 ♪", "Café ♪"),
        ("a\u202eb\ud800", "a b?".replace("?", "_")),
        ("...", "clip"),
        ("", "clip"),
    ],
)
def test_only_characters_and_names_special_to_file_systems_are_replaced(text, name):
    assert safe_name(text) == name


def test_of_equal_names_the_first_is_kept_and_the_others_get_request_and_take():
    clips = [clip("Song"), clip("song", "b2"), clip("Song", take=2), clip("so/ng", "c3"), clip("so:ng", "d4")]
    assert clip_names(clips, "{name}") == ["Song", "song-b2-1", "Song-a1-2", "so_ng", "so_ng-d4-1"]
    assert clip_names(clips[:3], "{name}_{take}") == ["Song_1", "song_1-b2-1", "Song_2"]


def test_template_takes_count_from_1_and_missing_names_have_fallbacks():
    template = "{take:02d} {title} {bpm} {seconds}s {key} {seed} {line} {request} {checkpoint}"
    assert clip_names([clip("n")], template) == ["01 n 98 8s A minor 7 3 a1 c1"]
    assert clip_names([clip(None, title="T"), clip(None)], "{name}") == ["T", "request a1"]


@pytest.mark.parametrize("template", ["{name}_{take}", "{name:.12} {take:02d}", "{request}", "x{{y}} {seed}"])
def test_a_valid_template_is_accepted(template):
    check_template(template)
    assert clip_names([clip("n")], template)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{nmae}_{take}", r"expected fields of name, title, .* got 'nmae' \(did you mean name\?\)"),
        ("{name.__class__}", "expected fields of"),
        ("{name!r}", "got 'name!r'"),
        ("{0}", "expected fields of"),
        ("{name", "expected a name such as"),
        ("{take:zz}", "expected a name such as"),
        ("{name}/{take}", "without folders"),
        ("all", "all clips would have one name"),
    ],
)
def test_an_invalid_template_is_refused_with_the_reason(template, message):
    with pytest.raises(ValueError, match=message):
        check_template(template)
