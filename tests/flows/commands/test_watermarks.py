"""`segue verify` and `segue export` of clips with a watermark: it is found even if tags and signatures are lost."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import soundfile

from flows.cli import run_command
from schemas.identity import canonical
from schemas.storage.versions import record_version
from schemas.tables import GENERATIONS, REQUESTS, VERSIONS
from schemas.weights import folder_digest
from stages import decode
from stages.audio import AudioFormat, encode_audio
from stages.audio.marks import WATERMARK_TAG, read_own_tags
from stages.delivery.choosing import ChosenClip
from stages.delivery.making import Form, Maker
from stages.networks.audioseal import load_watermark_detector
from tests.stages.test_watermark import MESSAGE, MarkedWorld


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MarkedWorld:
    return MarkedWorld(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def clip(world: MarkedWorld) -> dict:
    """The row of a marked clip of a recorded version."""
    config = decode.Config.model_validate({"codec": str(world.codec), "watermark": world.mark})
    identified = decode.dependencies(config, world.context().weights).config
    digests = {str(path): folder_digest(path) for path in (world.codec, world.pair[0])}
    inputs = {"verdicts": "v", "generations": "g", "requests": "r"}
    record_version(world.store, "marked", "decode", decode.VERSION, canonical(identified, digests), inputs)
    return next(iter(world.clips("marked", watermark=world.mark).values()))


def know_every_version(world: MarkedWorld) -> None:
    """Give an empty configuration to the versions for which no test recorded one."""
    for fingerprint in world.store.shards(VERSIONS, "1"):
        rows = world.store.read(VERSIONS, "1", [fingerprint]).to_pylist()
        if not rows[0]["config"]:
            new = pa.Table.from_pylist([rows[0] | {"config": "{}"}], schema=VERSIONS.schema)
            world.store.write_shard(VERSIONS, "1", fingerprint, new, fingerprint)


def verify(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, tuple[str, str]]:
    run_command(["verify", *(str(word) for word in words), "--format", "json"])
    (findings,) = json.loads(capsys.readouterr().out).values()
    return {each["subject"]: (each["verdict"], each["words"]) for each in findings}


def file_of(world: MarkedWorld, clip: dict, folder: Path) -> Path:
    path = folder / "clip.flac"
    path.write_bytes(world.store.read_bytes(clip["path"]))
    return path


def test_the_watermark_of_a_marked_file_is_named_and_found_by_its_detector(world, clip, tmp_path, capsys):
    path = file_of(world, clip, tmp_path)
    verdict, words = verify(capsys, path)["watermark"]
    assert (verdict, words) == (
        "note",
        "its tags name one (AudioSeal 1234), which was not checked: name its detector by --watermark",
    )
    verdict, words = verify(capsys, path, "--watermark", world.pair[1])["watermark"]
    assert verdict == "holds"
    assert words.endswith("16 of 16 bits of the message 1234 are right")


@pytest.mark.parametrize("format", ["mp3", "ogg"])
def test_the_watermark_is_found_after_encoding_without_tags(world, clip, tmp_path, capsys, format: AudioFormat):
    samples, rate = world.sound(clip)
    path = tmp_path / f"again.{format}"
    path.write_bytes(encode_audio(samples, rate, format))
    found = verify(capsys, path, "--watermark", world.pair[1])
    assert found["marks"][0] == "fails"
    assert found["watermark"][0] == "holds"
    assert "found in" in found["watermark"][1]


def test_a_tag_without_a_watermark_and_a_tag_with_another_message_fail(world, clip, tmp_path, capsys):
    samples, rate = world.sound(clip)
    (plain,) = [row for key, row in world.clips("plain").items() if key == (clip["request_id"], clip["take"])]
    path = tmp_path / "claims.flac"
    path.write_bytes(encode_audio(world.sound(plain)[0], rate, "flac", {WATERMARK_TAG: "AudioSeal 1234"}))
    verdict, words = verify(capsys, path, "--watermark", world.pair[1])["watermark"]
    assert verdict == "fails"
    assert "none was found" in words
    path.write_bytes(encode_audio(samples, rate, "flac", {WATERMARK_TAG: "AudioSeal edcb"}))
    assert verify(capsys, path, "--watermark", world.pair[1])["watermark"][0] == "fails"
    path.write_bytes(encode_audio(world.sound(plain)[0], rate, "flac"))
    assert verify(capsys, path, "--watermark", world.pair[1])["watermark"][0] == "note"
    assert "watermark" not in verify(capsys, path)


def test_weights_that_are_not_a_detector_are_a_usage_error(world, clip, tmp_path, capsys):
    path = file_of(world, clip, tmp_path)
    assert run_command(["verify", str(path), "--watermark", str(world.pair[0])]) == 2
    assert "expected the weights of an AudioSeal detector" in capsys.readouterr().err


@pytest.mark.parametrize(("format", "rate"), [("flac", None), ("mp3", 16_000), ("ogg", 44_100), ("wav", 48_000)])
def test_a_delivered_clip_keeps_its_watermark_in_every_form_and_lists_it(
    world, clip, format: AudioFormat, rate: int | None
) -> None:
    know_every_version(world)
    key = (clip["request_id"], clip["take"])
    generation = next(
        row for row in world.store.read(GENERATIONS, "g").to_pylist() if (row["request_id"], row["take"]) == key
    )
    request = next(row for row in world.store.read(REQUESTS, "r").to_pylist() if row["request_id"] == key[0])
    chosen = ChosenClip(clip, {"title": None, "name": "x"} | request, generation, {})
    data, file = Maker(world.store, Form(format, rate)).make(chosen, f"clips/x.{format}")
    samples, decoded_rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    assert load_watermark_detector(world.pair[1]).detect(samples.T, decoded_rate).bits_right(MESSAGE) == 16
    assert read_own_tags(io.BytesIO(data))[WATERMARK_TAG] == "AudioSeal 1234"
    assert file.marks.endswith("AudioSeal 1234 (watermark)")


def test_a_marked_clip_is_rendered_again_bit_for_bit(world, clip) -> None:
    config = decode.Config.model_validate({"codec": str(world.codec), "watermark": world.mark})
    key = (clip["request_id"], clip["take"])
    generation = next(
        row for row in world.store.read(GENERATIONS, "g").to_pylist() if (row["request_id"], row["take"]) == key
    )
    request = next(row for row in world.store.read(REQUESTS, "r").to_pylist() if row["request_id"] == key[0])
    context = replace(world.context("marked"), stage="decode")
    again = decode.render_again(config, context, generation | {"retake": 0, "reasons": []}, request)
    assert again.data == world.store.read_bytes(clip["path"])
