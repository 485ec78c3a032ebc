"""The watermark of clips: only in their sound, found again in every form, and measured."""

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from flows.recipes.presets import NO_WATERMARK
from flows.recipes.recipe import Recipe
from flows.runs.orders import advice_lines
from schemas import Store
from schemas.identity import weights_fields
from schemas.queries.database import query
from schemas.storage.drafts import Drafts
from schemas.storage.publications import Publications
from schemas.tables import CLIPS, GENERATIONS, VERDICTS, WATERMARKS, WEIGHTS
from schemas.weights import MissingWeights, WeightsLibrary
from stages import decode, watermark
from stages.audio import measure_audio
from stages.audio.credentials import read_credentials
from stages.audio.marks import WATERMARK_TAG, read_own_tags
from stages.networks.audioseal import load_watermark_detector
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import run_stage
from tests.worlds.gate_world import GateWorld, passed
from tests.worlds.signers import SignerFiles
from tests.worlds.watermark_networks import tone_pair

MESSAGE = 0x1234
FORMS = ["unmarked", "written", "mp3", "ogg", "44100 Hz", "16000 Hz"]


class MarkedWorld(GateWorld):
    """A store with clips that can be marked by working networks."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, [{"seconds": 3.0, "takes": 2}, {"seconds": 1.2}])
        self.pair = tone_pair(folder / "pair")
        self.store.write_shard(VERDICTS, "v", "0", passed(self.store.read(GENERATIONS, "g").to_pylist()), "k")
        self.mark = {"generator": str(self.pair[0]), "detector": str(self.pair[1]), "message": MESSAGE}

    def clips(self, version: str, **fields: Any) -> dict[tuple[str, int], dict[str, Any]]:
        """The rows of clips written with some fields of the stage."""
        config = decode.Config.model_validate({"codec": str(self.codec)} | fields)
        run_stage(ConfiguredStage("decode", decode, config), self._context("decode", version))
        rows = self.store.read(CLIPS, version).to_pylist()
        return {(row["request_id"], row["take"]): row for row in rows}

    def heard(self, clips: str, version: str = "w", **fields: Any) -> list[dict[str, Any]]:
        """What is found in the clips of a version that was written with these fields."""
        config = watermark.Config.model_validate({"codec": str(self.codec), "mark": self.mark} | fields)
        run_stage(ConfiguredStage("watermark", watermark, config), self._context("watermark", version, clips=clips))
        return self.store.read(WATERMARKS, version).to_pylist()

    def _context(self, stage: str, version: str, **versions: str) -> Any:
        known = {"verdicts": "v", "generations": "g", "requests": "r"} | versions
        return replace(self.context(version), stage=stage, versions=known)

    def sound(self, row: dict[str, Any]) -> tuple[np.ndarray, int]:
        samples, rate = soundfile.read(io.BytesIO(self.store.read_bytes(row["path"])), dtype="float32", always_2d=True)
        return samples.T, rate


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MarkedWorld:
    return MarkedWorld(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("form", ["flac", "mp3", "ogg"])
def test_a_marked_clip_carries_its_message_keeps_its_level_and_has_a_tag(world: MarkedWorld, form: str) -> None:
    plain = world.clips(f"plain-{form}", format=form)
    marked = world.clips(f"marked-{form}", format=form, watermark=world.mark)
    detector = load_watermark_detector(world.pair[1])
    for key, row in marked.items():
        detection = detector.detect(*world.sound(row))
        assert detection.score > 0.9
        assert detection.bits_right(MESSAGE) >= 14
        assert not detector.detect(*world.sound(plain[key])).found
        assert row["true_peak"] <= -1.0
        assert row["loudness"] == pytest.approx(plain[key]["loudness"], abs=0.5)
        tags = read_own_tags(io.BytesIO(world.store.read_bytes(row["path"])))
        assert tags.pop(WATERMARK_TAG) == "AudioSeal 1234"
        assert tags == read_own_tags(io.BytesIO(world.store.read_bytes(plain[key]["path"])))


def test_the_detector_is_not_part_of_the_identity_of_clips_but_the_generator_is(world: MarkedWorld) -> None:
    library = world.context().weights
    config = decode.Config.model_validate({"codec": str(world.codec), "watermark": world.mark})
    kept = decode.dependencies(config, library).config
    assert (kept.watermark.detector, kept.watermark.generator) == (None, str(world.pair[0]))


def test_a_clip_is_marked_before_it_is_signed(world: MarkedWorld, tmp_path: Path) -> None:
    for row in world.clips("signed", watermark=world.mark, credentials=SignerFiles(tmp_path).fields).values():
        claim = read_credentials(io.BytesIO(world.store.read_bytes(row["path"])), "flac")
        assert claim is not None
        assert claim.problems == ()
        assert claim.actions == ("c2pa.created", "c2pa.watermarked.unbound")
        assert claim.terms == ("trainedAlgorithmicMedia",)
        assert claim.generation["watermark"] == "AudioSeal 1234"
        assert load_watermark_detector(world.pair[1]).detect(*world.sound(row)).found


def test_every_clip_is_checked_in_every_form_and_without_its_mark(world: MarkedWorld) -> None:
    clips = world.clips("marked", watermark=world.mark)
    rows = world.heard("marked")
    assert {(row["request_id"], row["take"]) for row in rows} == clips.keys()
    for row in rows:
        assert [each["form"] for each in row["watermark_heard"]] == FORMS
        assert [each["found"] for each in row["watermark_heard"]] == [False, True, True, True, True, True]
        assert all(each["bits_right"] >= 14 for each in row["watermark_heard"][1:])
        assert (row["watermark_found"], row["watermark_message"], row["watermark_bits"]) == (True, MESSAGE, 16)


def test_the_measured_damage_is_that_of_the_mark_alone(world: MarkedWorld) -> None:
    plain = world.clips("plain", loudness=-20.0)
    marked = world.clips("marked quietly", loudness=-20.0, watermark=world.mark)
    for row in world.heard("marked quietly", "quietly", loudness=-20.0):
        key = (row["request_id"], row["take"])
        (before, rate), (after, _) = world.sound(plain[key]), world.sound(marked[key])
        added = after - before
        ratio = 10 * np.log10(np.square(before).sum() / np.square(added).sum())
        assert row["watermark_si_snr"] == pytest.approx(ratio, abs=0.5)
        change = measure_audio(after, rate).loudness - measure_audio(before, rate).loudness
        assert row["watermark_loudness"] == pytest.approx(change, abs=0.1)


def test_the_view_of_detections_has_a_row_for_each_form(world: MarkedWorld) -> None:
    world.clips("marked", watermark=world.mark)
    rows = world.heard("marked", "shown")
    drafts = Drafts(world.store, WATERMARKS, "shown")
    Publications(world.store).publish("run", "watermark", {WATERMARKS.name: ("shown", drafts.manifest())})
    sql = "SELECT form, count(*) n, avg(found::INT) found FROM detections GROUP BY form"
    counted = query(world.store, sql).to_pylist()
    assert {row["form"]: (row["n"], row["found"]) for row in counted} == {
        form: (len(rows), float(form != "unmarked")) for form in FORMS
    }


def test_clips_with_a_mark_that_is_not_found_are_remarked(world: MarkedWorld) -> None:
    context = world._context("watermark", "none", clips="plain-flac")
    world.clips("plain-flac")
    config = watermark.Config.model_validate({"codec": str(world.codec), "mark": world.mark})
    rows = [row for part in watermark.shard(config, context, *map(context.rows, watermark.READS)) for row in part.rows]
    assert not any(row["watermark_found"] for row in rows)
    (remark,) = context.remarks.all()
    assert (remark.count, remark.location) == (len(rows), "decode.watermark")


def test_without_a_mark_its_networks_are_neither_imported_nor_fetched(world: MarkedWorld) -> None:
    before = world.store.read_all(WEIGHTS).num_rows
    world.clips("never marked", format="wav")
    assert world.store.read_all(WEIGHTS).num_rows == before
    assert "watermark" not in [stage.name for stage in Recipe().configured_stages(None)]
    script = "import sys, flows.recipes.recipe, stages.networks.watermarks; sys.exit('audioseal' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_naming_the_networks_turns_the_stage_on_with_the_settings_of_decode(tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"decode": {"watermark": {"message": 7}}})
    assert recipe.watermark.mark == recipe.decode.watermark
    assert recipe.watermark.codec == recipe.decode.codec
    names = [stage.name for stage in recipe.configured_stages(None)]
    assert names[names.index("decode") + 1] == "watermark"
    unmeasured = Recipe.model_validate({"decode": {"watermark": {"detector": None}}})
    assert "watermark" not in [stage.name for stage in unmeasured.configured_stages(None)]


def test_missing_weights_are_named_before_any_work(tmp_path: Path) -> None:
    config = Recipe.model_validate({"decode": {"watermark": {}}}).decode
    library = WeightsLibrary(Store(str(tmp_path / "s")), offline=True)
    with pytest.raises(MissingWeights) as raised:
        library.fetch_all(weights_fields({"decode": config.watermark}))
    assert "facebook/audioseal/generator_base.pth" in str(raised.value)


def test_the_eu_overlay_advises_a_watermark_until_one_is_named() -> None:
    assert list(advice_lines(Recipe.model_validate({"preset": "miniature+eu"}))) == [NO_WATERMARK]
    named = {"preset": "miniature+eu", "decode": {"watermark": {"generator": "./generator.pth"}}}
    assert list(advice_lines(Recipe.model_validate(named))) == []
    assert list(advice_lines(Recipe())) == []
