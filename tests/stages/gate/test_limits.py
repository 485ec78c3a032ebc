"""Limits: each planted fault is caught by its own limit, and the clean sound passes all limits."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from model.chroma import chroma
from model.conditioning.config import ChromaConfig
from stages.audio import read_audio, resample
from stages.demo.synthesis import compose
from stages.demo.synthesis.rendering import render
from stages.gate.config import Limits
from stages.gate.judging import follow_request, reasons_against
from stages.gate.measuring import Measures, measure_try
from stages.judging.melody import Melody
from tests.worlds.open_gate import OPEN_LIMITS
from tests.worlds.small_catalog import melody_clip, request_row

RATE, FRAME_RATE, SECONDS = 16_000, 50.0, 10.0
BORDER = 6.0
"""The second at which a window ends."""


def clean() -> np.ndarray:
    """Music: a few decaying notes at half of full scale."""
    return melody_clip(1, SECONDS, RATE)


def codes() -> np.ndarray:
    """Codes [4, T] that change like those of music."""
    return np.random.default_rng(0).integers(512, size=(4, round(SECONDS * FRAME_RATE)), dtype=np.uint16)


def reasons(sound: np.ndarray, of_codes: np.ndarray | None = None, limits: Limits | None = None) -> list[str]:
    measures = measure_try(sound, RATE, codes() if of_codes is None else of_codes, FRAME_RATE, [BORDER])
    return reasons_against(measures, limits or Limits(), SECONDS)


def names(found: list[str]) -> list[str]:
    return [reason.partition(":")[0] for reason in found]


def noise(seconds: float, level: float) -> np.ndarray:
    drawn = np.random.default_rng(3).standard_normal((1, round(seconds * RATE)))
    return (level * drawn).astype(np.float32)


def silent_head(sound: np.ndarray) -> np.ndarray:
    return np.where(np.arange(sound.shape[1]) < 2.3 * RATE, 1e-4 * sound, sound)


def silent_tail(sound: np.ndarray) -> np.ndarray:
    return np.where(np.arange(sound.shape[1]) > 7.7 * RATE, 1e-4 * sound, sound)


def holes(sound: np.ndarray) -> np.ndarray:
    """Digital silence for 27 % of the time, in the middle."""
    second = np.arange(sound.shape[1]) / RATE
    return np.where((second > 2) & (second < 4.7), 0, sound)


def dead(sound: np.ndarray) -> np.ndarray:
    return 2e-3 * sound


def clipped(sound: np.ndarray) -> np.ndarray:
    return np.clip(4 * sound, -1, 1)


def far_over(sound: np.ndarray) -> np.ndarray:
    return 4 * sound


def with_offset(sound: np.ndarray) -> np.ndarray:
    return sound + 0.05


def with_burst(sound: np.ndarray) -> np.ndarray:
    burst = sound.copy()
    burst[:, -round(0.7 * RATE) :] += noise(0.7, 0.2)
    return burst


def too_short(sound: np.ndarray) -> np.ndarray:
    return sound[:, : round(9.9 * RATE)]


def broken_seam(sound: np.ndarray) -> np.ndarray:
    """From one window to the next the music becomes a steady hiss, unlike anything before."""
    border = round(BORDER * RATE)
    steady = np.sin(2 * np.pi * 220 * np.arange(border) / RATE)[None] * 0.3 + noise(BORDER, 0.001)
    return np.concatenate([steady, noise(SECONDS - BORDER, 0.1)], axis=1).astype(np.float32)


@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        (silent_head, ["head_silence"]),
        (silent_tail, ["tail_silence"]),
        (holes, ["zeros"]),
        (dead, ["loudness"]),
        (clipped, ["clipping_runs"]),
        (far_over, ["clipping_runs", "true_peak"]),
        (with_offset, ["dc"]),
        (with_burst, ["end_noise"]),
        (too_short, ["seconds"]),
        (broken_seam, ["seam"]),
    ],
)
def test_a_planted_fault_is_caught_by_its_own_limit_alone(
    plant: Callable[[np.ndarray], np.ndarray], expected: list[str]
) -> None:
    assert reasons(clean()) == []
    found = reasons(plant(clean()).astype(np.float32))
    assert names(found) == expected
    assert all("expected" in reason and "got" in reason for reason in found)


def test_a_fault_passes_if_its_limit_is_off() -> None:
    assert reasons(with_offset(clean()), limits=Limits(dc=None)) == []


def test_a_held_frame_and_a_loop_are_caught_in_the_codes() -> None:
    held, looped, one_code = codes(), codes(), codes()
    held[:, 200:] = held[:, 200:201]
    looped[:, 200:] = np.tile(looped[:, 200:225], 12)
    one_code[0, 200:] = 7
    assert names(reasons(clean(), held)) == ["held_seconds"]
    assert "expected at most 0.12 s in which no code changes" in reasons(clean(), held, Limits(held=0.12))[0]
    assert names(reasons(clean(), looped)) == ["looped_seconds"]
    assert reasons(clean(), one_code) == []  # a long tone, which is shaped by the other codebooks


def test_a_repeated_bar_is_not_a_loop() -> None:
    repeated = np.tile(codes()[:, :125], 4)  # every 2.5 seconds
    assert reasons(clean(), repeated) == []


def test_a_silent_end_is_not_reported_as_a_held_frame_too() -> None:
    ended = codes()
    ended[:, 330:] = 0
    assert names(reasons(np.where(np.arange(round(SECONDS * RATE)) > 6.6 * RATE, 0, clean()), ended)) == [
        "tail_silence",
        "zeros",
    ]


def test_silence_at_the_start_of_a_prompt_hides_no_generated_codes() -> None:
    prompt_frames = round(3 * FRAME_RATE)
    held, looped, silent = codes(), codes(), codes()
    held[:, prompt_frames : prompt_frames + 80] = held[:, prompt_frames : prompt_frames + 1]
    looped[:, prompt_frames : prompt_frames + 80] = np.tile(looped[:, prompt_frames : prompt_frames + 20], 4)
    silent[:, :prompt_frames] = 0

    def measures(of_codes: np.ndarray) -> Measures:
        return measure_try(silent_head(clean()), RATE, of_codes, FRAME_RATE, prompt_frames=prompt_frames)

    assert measures(held).head_silence == pytest.approx(2.3)
    assert measures(held).held_seconds == pytest.approx(80 / FRAME_RATE)
    assert measures(looped).looped_seconds == pytest.approx(60 / FRAME_RATE)
    assert measures(silent).held_seconds == pytest.approx(1 / FRAME_RATE)  # the prompt's own codes do not count


def test_a_silent_clip_is_not_reported_by_the_limits_of_its_ends() -> None:
    assert names(reasons(np.zeros((1, round(SECONDS * RATE)), np.float32))) == ["loudness", "zeros"]


def test_a_short_clip_may_ring_out_for_half_a_second() -> None:
    sound = melody_clip(1, 1.0, RATE)
    sound[:, round(0.6 * RATE) :] = 1e-4
    measures = measure_try(sound, RATE, None, FRAME_RATE)
    assert measures.tail_silence == pytest.approx(0.4)
    assert reasons_against(measures, Limits(), 1.0) == []


def test_key_and_tempo_are_judged_only_if_they_have_a_limit() -> None:
    sound = render(compose(0, 0)).sum(0).numpy()[None, : round(SECONDS * RATE)]
    request = request_row(0, key="F# minor", bpm=143.0, chords=None, meter=None, fields=[], seconds=SECONDS)
    heard, against = follow_request(sound, RATE, request, None, None, Limits())
    assert (heard.key, against) == (None, [])
    heard, against = follow_request(sound, RATE, request, None, None, Limits(key_score=0.5, tempo="octave"))
    assert heard.key is not None
    assert heard.key != "F# minor"
    assert names(against) == ["key_score", "tempo"]
    right = request | {"key": heard.key, "bpm": heard.bpm}
    assert follow_request(sound, RATE, right, None, None, Limits(key_score=1.0, tempo="exact"))[1] == []


def test_a_melody_is_judged_by_its_share_of_right_frames() -> None:
    analysis, request = ChromaConfig(), request_row(0, key=None, bpm=None, chords=None, meter=None, fields=[])
    own = chroma(torch.from_numpy(resample(clean(), RATE, analysis.sample_rate)), analysis)[0]
    limits = Limits(chroma_similarity=0.9)
    followed = Melody(own, analysis.frame_rate)
    assert follow_request(clean(), RATE, request, followed, analysis, limits)[1] == []
    turned = Melody(own.roll(1, dims=1), analysis.frame_rate)
    (reason,) = follow_request(clean(), RATE, request, turned, analysis, limits)[1]
    assert reason.startswith("chroma_similarity: expected at least 90%")


@pytest.mark.parametrize("name", ["orchestral/defeat2.ogg", "orchestral/victory2.ogg", "electronic/electro_1.mp3"])
def test_real_recordings_pass(corpus: Path, name: str) -> None:
    """Three of the recordings on which the limits were measured."""
    sound = read_audio(str(corpus / name))
    measures = measure_try(sound.samples, sound.sample_rate, None, FRAME_RATE)
    assert reasons_against(measures, Limits(), measures.seconds) == []


def test_the_open_limits_of_the_tests_are_all_off():
    assert set(Limits.model_validate(OPEN_LIMITS).model_dump().values()) == {None}
