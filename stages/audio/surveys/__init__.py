"""Surveys: what a file's structure says about its length and whether it is whole, compared with its header.

Decoders stop where a header says, or refuse a whole recording because one header is wrong. A survey decodes nothing: it
walks over frames, pages or chunks, and returns what should be decoded. For a clean file that is the file as it is.
"""

from typing import IO

from stages.audio.surveys.atoms import survey_asf, survey_au, survey_caf, survey_mp4, survey_w64
from stages.audio.surveys.chunks import survey_riff
from stages.audio.surveys.flac import survey_flac
from stages.audio.surveys.layout import Layout, Part, Silence
from stages.audio.surveys.mpeg import survey_mpeg
from stages.audio.surveys.ogg import survey_ogg

__all__ = ["WALKED", "Layout", "Part", "Silence", "survey"]

_SURVEYS = {
    "wav": survey_riff,
    "aiff": survey_riff,
    "mp3": survey_mpeg,
    "aac": survey_mpeg,
    "ogg": survey_ogg,
    "mp4": survey_mp4,
    "asf": survey_asf,
    "caf": survey_caf,
    "w64": survey_w64,
    "au": survey_au,
}
WALKED = frozenset(_SURVEYS)
"""Containers whose survey reads all of the structure. In files of other containers a decoder may leave bytes unread."""


def survey(file: IO[bytes], container: str, search_all: bool = False) -> Layout:
    """Return what should be decoded of an open file: all of it, as it is, for containers without a survey.

    Args:
        container: as `container_of` returns it.
        search_all: whether to search all bytes of a FLAC for further files, because a decoder left some unread.

    Raises:
        AudioError: the file was cut short, or its format changes in the middle.
        OSError: the disk or the network failed.
    """
    if container == "flac":
        return survey_flac(file, search_all)
    return _SURVEYS[container](file) if container in _SURVEYS else Layout()
