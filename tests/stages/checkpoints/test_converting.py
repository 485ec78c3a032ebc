"""Checkpoints converted between forms: nothing of a model changes, and a folder is written completely or not at all."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from flows.cli import run_command
from schemas import WeightsRef
from stages.checkpoints.codecs import CodesFormat, load_codec, load_matching_codec
from stages.checkpoints.converting import convert_checkpoint
from stages.checkpoints.loading import Form, detect_form, load_checkpoint
from stages.checkpoints.native import load_encodec
from tests.worlds.command_line import segue
from tests.worlds.hugging_face_models import SHAPES, random_musicgen, save
from tests.worlds.patience import PATIENCE_SECONDS
from tests.worlds.small_checkpoint import find, refuse, same_weights, small_checkpoint
from tests.worlds.tiny_codec import codec_folder


def test_a_checkpoint_converted_to_this_projects_form_needs_no_other_files(tmp_path: Path) -> None:
    small = small_checkpoint(tmp_path)
    made = convert_checkpoint(small.folder, tmp_path / "new", "segue", find)
    assert (made.source, made.destination) == ("segue", "segue")
    assert made.codec.startswith("its codec (identity ")
    shutil.rmtree(small.codec)
    shutil.rmtree(small.text_encoder)
    read = load_checkpoint(tmp_path / "new", refuse)
    assert same_weights(read, small.trained)
    assert small.trained.facts.codec is not None
    assert read.facts.codec == small.trained.facts.codec.model_copy(update={"reference": None})
    assert read.codec is not None


def test_conversion_to_hugging_faces_form_and_back_keeps_every_tensor(tmp_path: Path) -> None:
    small = small_checkpoint(tmp_path)
    convert_checkpoint(small.folder, tmp_path / "hf", "hf", find)
    convert_checkpoint(tmp_path / "hf", tmp_path / "back", "segue", refuse)
    assert [detect_form(tmp_path / name) for name in ("hf", "back")] == ["hf", "segue"]
    back = load_checkpoint(tmp_path / "back", refuse)
    assert same_weights(back, small.trained)
    ours, theirs = load_encodec(small.codec).state_dict(), load_encodec(tmp_path / "back" / "codec").state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert back.facts.codec is not None
    assert small.trained.facts.codec is not None
    assert back.facts.codec.identity == small.trained.facts.codec.identity
    assert back.facts.segment_seconds == small.trained.facts.segment_seconds


def test_conversion_to_audiocrafts_form_and_back_keeps_every_tensor(tmp_path: Path) -> None:
    small = small_checkpoint(tmp_path, reads=False)
    convert_checkpoint(small.folder, tmp_path / "audiocraft", "audiocraft", find)
    assert detect_form(tmp_path / "audiocraft") == "audiocraft"
    convert_checkpoint(tmp_path / "audiocraft", tmp_path / "back", "segue", find)
    back = load_checkpoint(tmp_path / "back", refuse)
    assert same_weights(back, small.trained)
    assert load_codec(tmp_path / "audiocraft").identity == load_codec(small.codec).identity


def test_a_stereo_model_is_converted_to_hugging_face_and_back_with_its_mono_codec(tmp_path: Path) -> None:
    small = small_checkpoint(tmp_path, codebooks=4, channels=2)
    convert_checkpoint(small.folder, tmp_path / "hf", "hf", find)
    convert_checkpoint(tmp_path / "hf", tmp_path / "back", "segue", refuse)
    back = load_checkpoint(tmp_path / "back", refuse)
    assert same_weights(back, small.trained)
    assert back.facts.model.language_model.codebook_delays == (0, 0, 1, 1)
    assert back.facts.codec is not None
    assert (back.facts.codec.codebooks, back.facts.codec.channels) == (4, 2)


@pytest.mark.parametrize("form", ["segue", "hf"])
def test_a_converted_folder_can_be_used_as_a_codec(tmp_path: Path, form: Form) -> None:
    small = small_checkpoint(tmp_path)
    convert_checkpoint(small.folder, tmp_path / "new", form, find)
    codec, own = load_codec(tmp_path / "new"), load_codec(small.codec)
    assert codec.identity == own.identity
    codes = torch.randint(16, (2, 30))
    assert torch.equal(codec.decode_track(codes), own.decode_track(codes))
    spoken = CodesFormat.from_facts(load_checkpoint(tmp_path / "new", find).facts)
    assert (
        load_matching_codec(spoken, tmp_path / "new", "cpu", "decode.codec = new", "the model").identity == own.identity
    )


def test_a_checkpoint_that_only_names_its_codec_cannot_be_used_as_one(tmp_path: Path) -> None:
    small = small_checkpoint(tmp_path)
    with pytest.raises(ValueError, match=f"got none: it uses {small.codec}"):
        load_codec(small.folder)


def test_a_given_codec_is_checked_by_its_identity(tmp_path: Path) -> None:
    small = small_checkpoint(tmp_path)
    shutil.move(small.codec, tmp_path / "moved")
    with pytest.raises(FileNotFoundError):
        convert_checkpoint(small.folder, tmp_path / "lost", "hf", lambda reference: find_existing(reference))
    convert_checkpoint(small.folder, tmp_path / "found", "hf", find, WeightsRef(str(tmp_path / "moved")))
    network = load_encodec(tmp_path / "moved")
    with torch.no_grad():
        network.quantizer.layers[1].codebook.embed.mul_(2)
    network.save_pretrained(tmp_path / "other")
    with pytest.raises(
        ValueError, match=r"expected the codec .*codec \(identity .*…\), which the checkpoint uses, got"
    ):
        convert_checkpoint(small.folder, tmp_path / "wrong", "hf", find, WeightsRef(str(tmp_path / "other")))
    codec_folder(tmp_path / "larger", cardinality=32)
    with pytest.raises(ValueError, match=r"expected a codec of 2 codebooks of 16 codes .* with 2 codebooks of 32"):
        convert_checkpoint(small.folder, tmp_path / "wrong", "hf", find, WeightsRef(str(tmp_path / "larger")))
    assert not (tmp_path / "wrong").exists()


def find_existing(reference: WeightsRef):
    if not Path(reference).exists():
        raise FileNotFoundError(reference)
    return find(reference)


def test_a_checkpoint_without_a_codec_gets_the_facts_of_the_given_one(tmp_path: Path) -> None:
    small = small_checkpoint(tmp_path, named=False)
    assert convert_checkpoint(small.folder, tmp_path / "without", "segue", find).codec == "no codec"
    with pytest.raises(ValueError, match="expected a codec to write with the model"):
        convert_checkpoint(small.folder, tmp_path / "hf", "hf", find)
    convert_checkpoint(small.folder, tmp_path / "with", "segue", find, WeightsRef(str(small.codec)))
    facts = load_checkpoint(tmp_path / "with", refuse).facts.codec
    assert facts is not None
    assert (facts.identity, facts.channels) == (load_codec(small.codec).identity, 1)


def test_a_used_folder_is_left_alone_and_an_empty_one_is_filled(tmp_path: Path) -> None:
    small = small_checkpoint(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("kept")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"expected a new or empty folder to write to, got .*taken"):
        convert_checkpoint(small.folder, tmp_path / "taken", "segue", find)
    assert [file.name for file in (tmp_path / "taken").iterdir()] == ["mine"]
    convert_checkpoint(small.folder, tmp_path / "empty", "segue", find)
    assert detect_form(tmp_path / "empty") == "segue"


def test_a_conversion_killed_or_refused_half_way_leaves_no_folder(tmp_path: Path) -> None:
    small = small_checkpoint(tmp_path)
    config = json.loads((small.folder / "config.json").read_text())
    config["model"]["language_model"]["position_period"] = 500.0
    (small.folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="500"):
        convert_checkpoint(small.folder, tmp_path / "new", "hf", find)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "codec", "encoder"]
    child = os.fork()
    if child == 0:  # dies where the weights are written, as if killed
        import stages.checkpoints.native as form

        form.save_file = lambda *_, **__: os._exit(9)
        convert_checkpoint(small.folder, tmp_path / "new", "segue", find)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not (tmp_path / "new").exists()


def test_the_command_prints_one_line_on_what_it_wrote(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    small = small_checkpoint(tmp_path)
    capfd.readouterr()
    assert run_command(["convert", str(small.folder), str(tmp_path / "new"), "--to", "hf"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 1
    assert "(segue) is written as hf to" in lines[0]
    assert "2 codebooks, mono)" in lines[0]
    assert detect_form(tmp_path / "new") == "hf"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "codec", "encoder", "new"]


def test_the_command_prints_no_warnings_of_transformers(tmp_path: Path) -> None:
    shape = SHAPES["mono"]
    save(random_musicgen(shape), shape, tmp_path / "musicgen")  # transformers warns of its special token
    process = segue("convert", str(tmp_path / "musicgen"), str(tmp_path / "new"), "--to", "hf")
    out, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, errors) == (0, "")
    assert len(out.splitlines()) == 1


def test_bad_input_gives_one_line_and_exit_code_2(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    small = small_checkpoint(tmp_path)
    (tmp_path / "evil").mkdir()
    torch.save({"best_state": {}, "xp.cfg": os.system}, tmp_path / "evil" / "state_dict.bin")
    capfd.readouterr()
    cases = [
        ([str(small.folder), "new", "--to", "mp3"], ["mp3", "audiocraft"]),
        ([str(tmp_path / "codec"), "new", "--to", "hf"], ["expected a language model's checkpoint", "encodec"]),
        ([str(tmp_path / "nowhere"), "new", "--to", "hf"], ["nowhere", "got nothing there"]),
        ([str(tmp_path / "evil"), "new", "--to", "hf"], ["state_dict.bin", "cannot be loaded safely"]),
        ([str(small.folder), "codec", "--to", "hf"], ["new or empty folder"]),
        ([str(small.folder), "checkpoint/inside", "--to", "hf"], ["outside of the checkpoint", "inside"]),
        (["checkpoint:0123", "new", "--to", "hf", "--store", str(tmp_path / "none")], ["expected a store"]),
    ]
    for (source, destination, *words), told in cases:
        assert run_command(["convert", source, str(tmp_path / destination), *words]) == 2
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        assert all(word in lines[0] for word in told), lines[0]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("form", ["segue", "hf"])
def test_converted_files_do_not_mention_folders_of_this_machine(form: Form, tmp_path: Path) -> None:
    small = small_checkpoint(tmp_path)
    convert_checkpoint(small.folder, tmp_path / "new", form, find)
    texts = [file for file in (tmp_path / "new").rglob("*") if file.suffix in (".json", ".md")]
    assert len(texts) > 2
    for file in texts:
        assert str(tmp_path) not in file.read_text(), file
