"""What lies in a folder says in which form its checkpoint is."""

import json
from pathlib import Path

import pytest

from stages.checkpoints.loading import form_of
from tests.stages.checkpoints.small_checkpoint import small_checkpoint


def folder_with(folder: Path, *names: str, **config: object) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"")
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_each_form_is_recognised_by_its_files(tmp_path: Path) -> None:
    assert form_of(small_checkpoint(tmp_path).folder) == "segue"
    assert form_of(folder_with(tmp_path / "hf", "model.safetensors", model_type="musicgen")) == "hf"
    assert form_of(folder_with(tmp_path / "melody", model_type="musicgen_melody")) == "hf"
    assert form_of(folder_with(tmp_path / "audiocraft", "state_dict.bin", "compression_state_dict.bin")) == "audiocraft"


def test_a_published_repository_with_both_forms_is_read_as_hugging_faces(tmp_path: Path) -> None:
    both = folder_with(tmp_path / "both", "state_dict.bin", "model.safetensors", model_type="musicgen")
    assert form_of(both) == "hf"


@pytest.mark.parametrize(
    ("files", "config", "got"),
    [
        ((), {}, "got no config.json"),
        (("model.safetensors",), {"model_type": "bert"}, "got one of a model of type 'bert'"),
        ((), {"hello": 1}, "got a config.json without a model"),
    ],
)
def test_anything_else_is_refused_with_what_it_is(tmp_path: Path, files: tuple, config: dict, got: str) -> None:
    with pytest.raises(ValueError, match=f"expected a language model's checkpoint in .*{got}"):
        form_of(folder_with(tmp_path / "other", *files, **config))


def test_what_is_no_folder_or_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got nothing there"):
        form_of(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="got a file"):
        form_of(tmp_path / "file")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="expected JSON in"):
        form_of(tmp_path)
