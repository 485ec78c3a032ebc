"""Recordings compared with the gate's limits: what fails and where, and which limits would let it pass."""

import math
from pathlib import Path

import numpy as np
import pytest

from stages.audio import Samples
from stages.checkpoints.codecs import load_codec
from stages.gate.config import Limits
from stages.gate.corpus import Excerpt, LimitSummary, measure_recording, summarise
from tests.worlds.tiny_codec import codec_folder

RATE = 16_000


def tones(seconds: float, level: float = 0.1) -> Samples:
    time = np.arange(round(seconds * RATE)) / RATE
    sound: Samples = (level * np.sin(2 * np.pi * 220 * time) * (1 + 0.2 * np.sin(2 * np.pi * 3 * time)))[None].astype(
        np.float32
    )
    return sound


def planted(name: str) -> Samples:
    """A recording with one fault, named by the limit that should find it."""
    sound = tones(12.0)
    if name == "head_silence":
        sound[:, : 4 * RATE] = 0
    elif name == "tail_silence":
        sound[:, -6 * RATE :] = 0
    elif name == "zeros":
        sound[:, 4 * RATE : 8 * RATE] = 0
    elif name == "loudness":
        sound *= np.float32(0.01)
    elif name == "clipping":
        sound = np.clip(sound * 20, -1, 1)
    elif name == "dc":
        sound += np.float32(0.1)
    elif name == "end_noise":
        sound[:, -RATE:] = 0.1 * np.random.default_rng(1).standard_normal(RATE)
    return sound


def measured(sounds: dict[str, Samples], limits: Limits = Limits()) -> list[Excerpt]:
    return [each for name, sound in sounds.items() for each in measure_recording(name, sound, RATE, limits)]


def by_limit(excerpts: list[Excerpt], share: float = 1.0) -> dict[str, LimitSummary]:
    return {each.limit: each for each in summarise(excerpts, Limits(), share)}


def test_a_recording_is_measured_whole_and_in_excerpts_within_it() -> None:
    excerpts = measured({"long": tones(21.0), "short": tones(3.0)})
    assert [(each.name, each.begin, each.is_whole, round(each.measures.seconds, 3)) for each in excerpts] == [
        ("long", 0.0, True, 21.0),
        *(("long", start, False, 10.0) for start in (0.0, 5.0, 10.0)),
        ("short", 0.0, True, 3.0),
    ]


def test_music_without_a_fault_passes_and_keeps_the_limits() -> None:
    excerpts = measured({"sound": tones(12.0)})
    assert not any(each.reasons for each in excerpts)
    assert all(each.failing == 0 and not each.is_other for each in by_limit(excerpts).values())
    assert {"held", "looped"}.isdisjoint(by_limit(excerpts))  # nothing is known of codes


@pytest.mark.parametrize("limit", ["head_silence", "tail_silence", "zeros", "loudness", "clipping", "dc", "end_noise"])
def test_a_recording_beyond_a_limit_is_named_and_passes_the_suggested_limit(limit: str) -> None:
    sounds = {"sound": tones(12.0), limit: planted(limit)}
    summary = by_limit(measured(sounds))[limit]
    assert summary.failing >= 1
    assert summary.furthest_name.split(" at ")[0] == limit
    assert summary.is_other
    assert summary.furthest_passing is not None
    assert summary.furthest_passing != summary.furthest
    suggested = {name: each.suggested for name, each in by_limit(measured(sounds)).items()}
    assert not any(each.reasons for each in measured(sounds, Limits.model_validate(suggested)))


def test_limits_need_not_pass_the_share_of_recordings_that_are_known_to_be_bad() -> None:
    sounds = {f"sound {number}": tones(3.0) for number in range(9)} | {"quiet": planted("loudness")[:, : 3 * RATE]}
    excerpts = measured(sounds)
    assert by_limit(excerpts, share=1.0)["loudness"].is_other
    assert not by_limit(excerpts, share=0.9)["loudness"].is_other
    assert by_limit(excerpts, share=0.9)["loudness"].failing == 1


def test_digital_silence_fails_with_the_lowest_loudness() -> None:
    (silence,) = measured({"silence": np.zeros((2, 10 * RATE), np.float32)})
    assert silence.reasons
    assert by_limit([silence])["loudness"].furthest == -70


def test_a_suggested_limit_leaves_room_and_stays_in_the_range_of_its_knob() -> None:
    zeros = by_limit(measured({"zeros": np.zeros((1, 3 * RATE), np.float32)}))["zeros"]
    assert zeros.suggested == 1.0
    silence = by_limit(measured({"head_silence": planted("head_silence")}))["head_silence"]
    assert silence.suggested == math.ceil(4 * 1.25 * 10) / 10


def test_with_a_codec_the_codes_are_judged_too(tmp_path: Path) -> None:
    codec = load_codec(codec_folder(tmp_path / "codec"))
    excerpts = list(measure_recording("sound", tones(4.0), RATE, Limits(), codec))
    assert {"held", "looped"} <= by_limit(excerpts).keys()


def test_real_recordings_pass_the_default_limits(corpus: Path) -> None:
    from stages.audio.reading import read_audio

    file = corpus / "orchestral" / "victory2.ogg"
    audio = read_audio(str(file))
    excerpts = list(measure_recording(file.name, audio.samples, audio.sample_rate, Limits()))
    assert len(excerpts) > 1
    assert not any(each.reasons for each in excerpts)
