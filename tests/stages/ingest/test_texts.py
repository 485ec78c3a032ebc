"""Texts of tags: those that say nothing of the music, and those that were read in the wrong encoding."""

import pytest

from stages.ingest.texts import broken_text, no_description

NO_DESCRIPTIONS = {
    "www.91ting.com": "an address",
    "Visit http://somebody.bandcamp.com": "an address",
    "contact: me@example.org": "an address",
    "Encoded by LAME 3.99": "the name of a program",
    "Lavf58.29.100": "the name of a program",
    "iTunes v7.0": "the name of a program",
    "made in FL Studio": "the name of a program",
    "ripped with EAC": "the name of a program",
    "0": "no words",
    "2008-03-01": "no words",
    " 00000B1C 00000D2E 00007F3A": "no words",
    "8A - 124": "no words",
}


@pytest.mark.parametrize("text", NO_DESCRIPTIONS)
def test_addresses_programs_and_numbers_are_not_descriptions(text):
    assert no_description(text) == NO_DESCRIPTIONS[text]


@pytest.mark.parametrize(
    "text",
    [
        "slow",
        "A waltz in three",
        "静かな曲",
        "120 bpm techno",
        "A slow piece for strings, as recorded for example.com in an old church by the sea",
        "Live take, edited in Audacity, with a long quiet intro and brushes on the drums",
    ],
)
def test_words_about_the_music_are_descriptions(text):
    assert no_description(text) is None


@pytest.mark.parametrize("text", ["Òþ»¼", "Ýòî ïåñíÿ", "CafÃ© del Mar", "a\ufffdb"])
def test_text_in_another_encoding_is_recognised(text):
    assert broken_text(text)


@pytest.mark.parametrize("text", ["Café", "Björk", "Ärger", "ÀÉÎ", "Þó", "naïve", "Ångström", "Привет", "山", "plain"])
def test_text_that_people_write_is_not_broken(text):
    assert broken_text(text) is None


@pytest.mark.parametrize(("text", "encoding"), [("осень", "cp1251"), ("青春", "gbk"), ("ночь", "koi8-r")])
def test_other_encodings_read_as_latin_1_are_recognised(text, encoding):
    assert broken_text(text.encode(encoding).decode("latin-1"))
