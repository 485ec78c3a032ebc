"""A codec that does not fit its model is refused before it is used."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from flows.cli import run_command
from flows.commands.options import parse_run_options
from flows.runs.codecs import check_codecs
from flows.runs.running import Run, run_stages
from schemas import Store
from schemas.tables import GENERATIONS
from schemas.weights import folder_digest
from tests.worlds.hugging_face_models import SHAPES, random_musicgen, save
from tests.worlds.patience import PATIENCE_SECONDS
from tests.worlds.small_checkpoint import small_checkpoint

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(random_musicgen(SHAPES["mono"]), SHAPES["mono"], tmp_path / "small")


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """The model's own codec in a folder of its own, in half precision."""
    codec = random_musicgen(SHAPES["mono"]).audio_encoder
    codec.half().save_pretrained(tmp_path / "own")
    return tmp_path / "own"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A codec of the same sizes with other codebooks."""
    network = random_musicgen(SHAPES["mono"]).audio_encoder
    with torch.no_grad():
        network.quantizer.layers[1].codebook.embed.mul_(2)
    network.save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def plan(store: Path, stages: list[str], **knobs: object) -> Any:
    given = [f"{name.replace('__', '.')}={value}" for name, value in knobs.items()]
    settings = {"store": str(store), "device": "cpu", "offline": True, "requests": str(store.parent / "order.json")}
    (store.parent / "order.json").write_text(json.dumps([{"description": "calm piano", "seconds": 0.5}]))
    return parse_run_options(stages, "musicgen-small", settings, given).plan


@pytest.mark.parametrize("stage", ["decode", "gate", "evaluate", "generate"])
def test_a_wrong_codec_of_any_stage_is_refused_before_a_clip_is_generated(
    stage: str, folder: Path, other: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    stages = ["generate", "gate", "decode", "evaluate"]
    wrong = plan(store, stages, generate__checkpoint=folder, **{f"{stage}__codec": other})
    told = rf"expected the codec \(identity .*…\), which generate.checkpoint = {folder} uses, got {stage}.codec = "
    with pytest.raises(ValueError, match=told + str(other)):
        run_stages(Run(wrong))
    assert not Store(str(store)).versions(GENERATIONS)


def test_a_plan_refuses_the_codec_that_a_run_would_refuse(
    folder: Path, own: Path, other: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "order.json").write_text('[{"description": "calm piano", "seconds": 0.5}]')
    words = ["--preset", "musicgen-small", "--store", str(tmp_path / "store"), "--requests", f"{tmp_path}/order.json"]
    for codec, status in ((own, 0), (other, 1)):
        knobs = ("settings.offline=true", f"generate.checkpoint={folder}", f"decode.codec={codec}")
        named = [word for knob in knobs for word in ("--set", knob)]
        assert run_command(["plan", "requests", "generate", "decode", *words, *named]) == status
        told = capfd.readouterr()
        assert "order: 1 request" in told.out
        assert ("a run would stop: expected the codec (identity " in told.err) == (status == 1)
    assert f"got decode.codec = {other}" in told.err


def test_the_models_own_codec_is_accepted_from_another_folder(folder: Path, own: Path, tmp_path: Path) -> None:
    chosen = plan(tmp_path / "store", ["generate", "decode"], generate__checkpoint=folder, decode__codec=own)
    check_codecs(chosen.pipeline(), chosen.names)


def test_a_codec_with_the_digest_that_the_model_names_is_accepted_without_loading_either(tmp_path: Path) -> None:
    small = small_checkpoint(tmp_path)
    facts = json.loads((small.folder / "config.json").read_text())
    facts["codec"]["digest"] = folder_digest(small.codec)
    (small.folder / "config.json").write_text(json.dumps(facts))
    (tmp_path / "order.json").write_text('[{"description": "calm piano", "seconds": 0.5}]')
    knobs = ("settings.offline=true", f"generate.checkpoint={small.folder}", f"decode.codec={small.codec}")
    words = ["plan", "requests", "generate", "gate", "decode", "--store", str(tmp_path / "store")]
    words += ["--requests", f"{tmp_path}/order.json", *(word for knob in knobs for word in ("--set", knob))]
    words += ["--set", f"generate.text_encoder={small.text_encoder}", "--set", f"gate.codec={small.codec}"]
    script = f"import sys; from flows.cli import run_command; print(run_command({words}), 'torch' in sys.modules)"
    program = [sys.executable, "-c", script]
    ended = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True)
    assert ended.stdout.splitlines()[-1] == "0 False", ended.stderr


def test_a_training_set_in_another_codec_than_the_models_is_refused_before_it_is_encoded(
    folder: Path, own: Path, other: Path, tmp_path: Path
) -> None:
    for codec, fits in ((own, True), (other, False)):
        chosen = plan(tmp_path / "store", ["tokenize"], train__initial=folder, tokenize__codec=codec)
        if fits:
            check_codecs(chosen.pipeline(), chosen.names)
        else:
            with pytest.raises(ValueError, match=f"which train.initial = {folder} uses, got tokenize.codec = {other}"):
                check_codecs(chosen.pipeline(), chosen.names)


def test_for_a_model_that_is_not_yet_trained_the_codec_of_the_training_set_counts(
    folder: Path, own: Path, other: Path, tmp_path: Path
) -> None:
    knobs: dict[str, Any] = {"tokenize__codec": own, "train__initial": folder, "train__text_encoder": "null"}
    chosen = plan(tmp_path / "store", ["generate", "decode"], **knobs, decode__codec=other)
    with pytest.raises(ValueError, match=f"which tokenize.codec = {own} uses, got decode.codec = {other}"):
        check_codecs(chosen.pipeline(), chosen.names)
    same = plan(tmp_path / "store", ["generate", "decode"], **knobs)
    check_codecs(same.pipeline(), same.names)
