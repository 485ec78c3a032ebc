"""AudioSeal from its files: read without running code, equal to the package's own reading, and its marks are found."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from audioseal import AudioSeal
from audioseal.libs.moshi.utils.compile import no_compile

from stages.audio import Samples, encode_audio, resample
from stages.networks.audioseal import (
    SAMPLE_RATE,
    WatermarkDetector,
    WatermarkGenerator,
    load_watermark_detector,
    load_watermark_generator,
    message_bits,
)
from tests.worlds.watermark_networks import SMALL, build, random_pair, save, tone_pair

MESSAGE = 0xA5C3


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[WatermarkGenerator, WatermarkDetector]:
    generator, detector = tone_pair(tmp_path_factory.mktemp("pair"))
    return load_watermark_generator(generator, MESSAGE), load_watermark_detector(detector)


def music(rate: int, seconds: float, channels: int = 1) -> Samples:
    time = np.arange(round(rate * seconds)) / rate
    sides = [
        sum(0.04 * np.sin(2 * np.pi * f * time + side) for f in (110, 277.2, 415.3, 1_109)) for side in range(channels)
    ]
    noise = np.random.default_rng(1).standard_normal((channels, len(time)))
    sound: Samples = (np.array(sides) + 0.01 * noise).astype(np.float32)
    return sound


def test_networks_of_the_published_form_compute_the_same_as_in_the_audioseal_package(tmp_path: Path) -> None:
    generator, detector = random_pair(tmp_path)
    sound = torch.from_numpy(music(SAMPLE_RATE, 0.5))[None]
    message = torch.from_numpy(message_bits(MESSAGE, 16).astype(np.int64))[None]
    theirs, ours = AudioSeal.load_generator(str(generator)), load_watermark_generator(generator, MESSAGE)
    found, heard = AudioSeal.load_detector(str(detector)), load_watermark_detector(detector)
    assert sum(value.numel() for value in ours.network.parameters()) == 14_675_873
    with torch.no_grad(), no_compile():
        mark = theirs.get_watermark(sound, message=message)
        torch.testing.assert_close(torch.from_numpy(ours.mark(sound[0].numpy(), SAMPLE_RATE))[None], mark)
        score, bits = found.detect_watermark(sound)
    detection = heard.detect(sound[0].numpy(), SAMPLE_RATE)
    assert detection.score == pytest.approx(float(score[0]), abs=1e-3)
    assert detection.bits.tolist() == bits[0].bool().tolist()


def test_a_file_without_a_configuration_gets_the_published_one(tmp_path: Path) -> None:
    network, _card = build("generator")
    path = save(tmp_path / "bare.pth", network, None)
    assert load_watermark_generator(path).network.msg_processor.nbits == 16


@pytest.mark.parametrize("rate", [16_000, 32_000, 44_100])
@pytest.mark.parametrize("form", ["as it is", "mp3", "ogg", "resampled", "quieter"])
def test_a_mark_is_found_with_its_message_and_unmarked_sound_has_none(
    pair: tuple[WatermarkGenerator, WatermarkDetector], rate: int, form: str
) -> None:
    generator, detector = pair
    sound = music(rate, 4.0, channels=2)
    marked = sound + generator.mark(sound, rate)
    heard = {"plain": (sound, rate), "marked": (marked, rate)}
    for name, (samples, _) in heard.items():
        if form in ("mp3", "ogg"):
            decoded, _rate = soundfile.read(io.BytesIO(encode_audio(samples, rate, form)), dtype="float32")
            heard[name] = (decoded.T, rate)
        elif form == "resampled":
            heard[name] = (resample(samples, rate, 22_050), 22_050)
        elif form == "quieter":
            heard[name] = (samples * np.float32(0.7), rate)
    plain, found = (detector.detect(*heard[name]) for name in ("plain", "marked"))
    assert not plain.found
    assert found.found
    assert found.score > 0.9
    assert found.bits_right(MESSAGE) == 16
    assert found.message == MESSAGE
    assert found.bits_right(MESSAGE ^ 0b111) == 13


def test_a_long_sound_is_marked_window_by_window_without_a_seam(
    pair: tuple[WatermarkGenerator, WatermarkDetector],
) -> None:
    generator, detector = pair
    sound = music(SAMPLE_RATE, 33.3)
    mark = generator.mark(sound, SAMPLE_RATE)[0]
    assert detector.detect(sound + mark, SAMPLE_RATE).score > 0.9
    steps = np.abs(np.diff(mark))
    assert steps.max() <= 1.01 * steps[: 5 * SAMPLE_RATE].max()


def test_strength_scales_the_mark_and_sound_of_any_length_gets_one(
    pair: tuple[WatermarkGenerator, WatermarkDetector],
) -> None:
    generator, detector = pair
    twice = WatermarkGenerator(generator.network, MESSAGE, 2.0, "cpu")
    sound = music(32_000, 1.0)
    np.testing.assert_allclose(twice.mark(sound, 32_000), 2 * generator.mark(sound, 32_000), rtol=1e-5)
    for length in (1, 2, 31, 700):
        assert generator.mark(sound[:, :length], 32_000).shape == (1, length)
        assert 0 <= detector.detect(sound[:, :length], 32_000).score <= 1
    with pytest.raises(ValueError, match="expected samples to mark, got none"):
        generator.mark(sound[:, :0], 32_000)


class Harm:
    def __reduce__(self) -> tuple:
        return (print, ("harm",))


def test_a_file_that_names_code_is_refused_and_the_code_does_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": {}, "xp.cfg": Harm()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="weights without code"):
        load_watermark_generator(tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(ValueError, match="weights without code"):
        load_watermark_detector(tmp_path / "plain.pth")
    assert "harm" not in capsys.readouterr().out


def test_other_weights_are_refused_with_the_reason(tmp_path: Path) -> None:
    generator, detector = tone_pair(tmp_path)
    for load, path in ((load_watermark_detector, generator), (load_watermark_generator, detector)):
        with pytest.raises(ValueError, match="expected the weights of an AudioSeal "):
            load(path)
    network, card = build("generator", **SMALL)
    state = {name.replace(".inner_conv", ""): value for name, value in network.state_dict().items()}
    del state["decoder.model.0.conv.conv.weight"]
    torch.save({"model": state, "xp.cfg": card}, tmp_path / "short.pth")
    with pytest.raises(ValueError, match=r"Missing key.*decoder\.model\.0"):
        load_watermark_generator(tmp_path / "short.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="got list"):
        load_watermark_generator(tmp_path / "list.pth")
    with pytest.raises(ValueError, match="expected a message of 16 bits, got 65536"):
        load_watermark_generator(generator, 2**16)
