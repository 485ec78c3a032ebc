"""Surveys: what a file's own structure says of its length and its wholeness, against what its header claims.

Decoders stop where a header says, or refuse a whole recording for a wrong one. A survey decodes nothing: it walks
frames, pages or chunks, and returns what is to be decoded. For a clean file that is the file as it is.
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
"""Containers whose survey looks at all bytes: of others, a decoder may leave some."""


def survey(file: IO[bytes], container: str, search_all: bool = False) -> Layout:
    """Return what of an open file is to be decoded; of a container that has no survey, the file as it is.

    Args:
        container: as `container_of` gives it.
        search_all: look at all bytes, since a decoder left some.

    Raises:
        AudioError: the file was cut short, or changes its format.
        OSError: the disk or the network failed.
    """
    if container == "flac":
        return survey_flac(file, search_all)
    return _SURVEYS[container](file) if container in _SURVEYS else Layout()
