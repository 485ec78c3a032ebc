"""Texts in tags: which do not describe music, and which were read in another encoding than they were written in."""

import re

_ADDRESS = re.compile(
    r"(?:https?://|ftp://|www\.)\S+|[\w.+-]+@[\w-]+\.[\w.]+|\b[\w-]+(?:\.[\w-]+)*\.(?:com|net|org|info|ru|cn|de|fr|uk|co|io|tv)\b\S*",
    re.IGNORECASE,
)

_PROGRAM = re.compile(
    r"\b(?:lame|lavf|lavc|libflac|libvorbis|xing|fhg|itunes|itunnorm|eac|exact audio copy|dbpoweramp|foobar2000|cdex"
    r"|freerip|audacity|adobe audition|sound forge|fl studio|fruity ?loops|garageband|traktor|nero|winamp|mediamonkey"
    r"|musicbrainz|picard|xld|wavelab|ffmpeg|cubase|ableton|serato|mixed in key|audiograbber|replaygain)(?=\d|\b)",
    re.IGNORECASE,
)

_MADE_BY = re.compile(
    r"(?:encoded|ripped|converted|created|processed|tagged|exported|downloaded)\s+(?:by|with|using|in|from|on)\b",
    re.IGNORECASE,
)

_WORD = re.compile(r"[^\W\d_]{2,}")

_HEXADECIMAL = re.compile(r"\b(?=\w*\d)[0-9a-f]{6,}\b|\b0x[0-9a-f]+\b", re.IGNORECASE)

LONG = 300
"""Longer texts, in characters, are taken to say more than an address. The expressions that look for one take time that
grows with the square of the length."""

FEW_WORDS = 5
"""A text with at most this many words beside an address or a program's name says nothing else: `Visit http://…`."""

_HIGH = re.compile("[\x80-\xff]")
_UTF8_AS_LATIN1 = re.compile("[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")


def no_description(text: str) -> str | None:
    """Return why a text does not describe music (an address, a program's name, a number), or None if it may."""
    if len(text) > LONG:
        return None
    rest = _ADDRESS.sub(" ", text)
    if rest != text and len(_WORD.findall(rest)) <= FEW_WORDS:
        return "an address"
    if (_PROGRAM.search(text) or _MADE_BY.match(text)) and len(_WORD.findall(text)) <= FEW_WORDS:
        return "the name of a program"
    if not _WORD.search(_HEXADECIMAL.sub(" ", text)):
        return "no words"
    return None


def broken_text(text: str) -> str | None:
    """Return why a text was not read as it was written, or None if it may be right. UTF-8 that was read as Latin-1 is
    recognised by its form. Another encoding (GBK, Windows-1251 …) is recognised by letters nearly all from the upper
    half of Latin-1, which occur in no language."""
    if "\ufffd" in text:
        return "text with characters that were lost"
    high = _HIGH.findall(text)
    if not high:
        return None
    if len("".join(_UTF8_AS_LATIN1.findall(text))) == len(high):
        return "UTF-8 that was read as Latin-1"
    if len(high) > 3 and len(high) > 0.6 * len("".join(text.split())):
        return "text in another encoding"
    return None
