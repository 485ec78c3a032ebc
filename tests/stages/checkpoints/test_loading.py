"""The form of a checkpoint and the conditions that its model reads, from the files of its folder."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stages.checkpoints.loading import count_weights, detect_form, read_condition_names
from tests.worlds.audiocraft_files import written
from tests.worlds.patience import PATIENCE_SECONDS
from tests.worlds.small_checkpoint import small_checkpoint


def folder_with(folder: Path, *names: str, **config: object) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"")
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_each_form_is_recognised_by_its_files(tmp_path: Path) -> None:
    assert detect_form(small_checkpoint(tmp_path).folder) == "segue"
    assert detect_form(folder_with(tmp_path / "hf", "model.safetensors", model_type="musicgen")) == "hf"
    assert detect_form(folder_with(tmp_path / "melody", model_type="musicgen_melody")) == "hf"
    assert (
        detect_form(folder_with(tmp_path / "audiocraft", "state_dict.bin", "compression_state_dict.bin"))
        == "audiocraft"
    )


def test_a_published_repository_with_both_forms_is_read_as_hugging_faces(tmp_path: Path) -> None:
    both = folder_with(tmp_path / "both", "state_dict.bin", "model.safetensors", model_type="musicgen")
    assert detect_form(both) == "hf"


@pytest.mark.parametrize(
    ("files", "config", "got"),
    [
        ((), {}, "got no config.json"),
        (("model.safetensors",), {"model_type": "bert"}, "got a config.json of type 'bert'"),
        ((), {"hello": 1}, "got a config.json without a model"),
        ((), {"model_type": ["musicgen"]}, r"got a config.json of type \['musicgen'\]"),
    ],
)
def test_other_folders_are_refused_naming_what_they_hold(tmp_path: Path, files: tuple, config: dict, got: str) -> None:
    with pytest.raises(ValueError, match=f"expected a language model's checkpoint in .*{got}"):
        detect_form(folder_with(tmp_path / "other", *files, **config))


@pytest.mark.parametrize(("cut", "told"), [(-100, "bytes of safetensors in {}, got "), (5, "got a file without their")])
def test_counting_truncated_weights_names_their_file(cut: int, told: str, tmp_path: Path) -> None:
    folder = small_checkpoint(tmp_path).folder
    assert count_weights(folder) > 0
    file = sorted(folder.rglob("*.safetensors"))[-1]
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(ValueError, match=re.escape(told.format(file))) as raised:
        count_weights(folder)
    assert str(file) in str(raised.value)


def test_missing_folders_files_and_bad_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got nothing there"):
        detect_form(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="got a file"):
        detect_form(tmp_path / "file")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="expected JSON in"):
        detect_form(tmp_path)


@pytest.mark.parametrize("reads", [True, False])
def test_the_conditions_a_model_reads_are_found_without_its_weights(tmp_path: Path, reads: bool) -> None:
    small = small_checkpoint(tmp_path, reads=reads)
    (small.folder / "model.safetensors").unlink()
    assert read_condition_names(small.folder) == (("description",) if reads else ())
    text = folder_with(tmp_path / "hf", model_type="musicgen")
    assert read_condition_names(text) == ("description",)
    melody = folder_with(tmp_path / "melody", model_type="musicgen_melody")
    assert read_condition_names(melody) == ("description", "chroma")


@pytest.mark.parametrize(
    ("form", "reads"),
    [("text", ("description",)), ("melody", ("description", "chroma")), ("joint", ("clap",)), ("unconditional", ())],
)
def test_the_conditions_of_an_audiocraft_model_are_found_in_its_configuration(
    tmp_path: Path, form: str, reads: tuple[str, ...]
) -> None:
    assert set(read_condition_names(written(tmp_path, form).folder)) == set(reads)


def test_bad_facts_of_a_checkpoint_are_refused_by_name(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "own", format=2, model={"width": "wide"}, segment_seconds=2.0)
    with pytest.raises(ValueError, match=f"expected a language model's checkpoint in {folder}, got"):
        read_condition_names(folder)


def test_forms_and_facts_are_read_without_torch() -> None:
    script = "import stages.checkpoints.loading, sys; print({'torch', 'transformers'} & set(sys.modules))"
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
    )
    assert ended.stdout.strip() == "set()"
