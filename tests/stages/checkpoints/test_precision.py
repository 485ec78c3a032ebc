"""Half precision: the identity of a codec is the same in it, and converted checkpoints keep it unless told not to."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from model.codec.codec import codebook_identity
from schemas import WeightsRef
from schemas.weights import LocalWeights
from stages.checkpoints.codecs import CodesFormat, codes_of_checkpoint, load_codec, load_matching_codec
from stages.checkpoints.converting import convert_checkpoint
from stages.checkpoints.loading import load_checkpoint
from stages.checkpoints.native import load_encodec
from stages.checkpoints.precision import stored_type
from tests.worlds.audiocraft_files import codec, text_encoders, written
from tests.worlds.hugging_face_models import SHAPES, random_musicgen, save
from tests.worlds.small_checkpoint import find, refuse, same_weights
from tests.worlds.tiny_codec import codec_folder

HALF = "float16"


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MusicGen in Hugging Face's form with every tensor in half precision."""
    folder = tmp_path_factory.mktemp("half")
    return save(random_musicgen(SHAPES["mono"]).half(), SHAPES["mono"], folder)


def codebook(network: Any) -> torch.Tensor:
    """The entries of a codec's first codebook."""
    entries: torch.Tensor = network.quantizer.layers[0].codebook.embed
    return entries


def types(file: Path) -> set[torch.dtype]:
    with safe_open(file, "pt") as opened:
        return {dtype for name in opened.keys() if (dtype := opened.get_tensor(name).dtype).is_floating_point}  # noqa: SIM118


def test_a_codec_in_half_precision_has_the_same_identity(tmp_path: Path) -> None:
    folder = codec_folder(tmp_path / "full")
    load_encodec(folder).half().save_pretrained(tmp_path / "half")
    assert load_codec(tmp_path / "half").identity == load_codec(folder).identity
    full, half = (codebook(load_encodec(tmp_path / name)) for name in ("full", "half"))
    assert not torch.equal(full, half)


def test_another_codec_has_another_identity_despite_half_precision(tmp_path: Path) -> None:
    folder = codec_folder(tmp_path / "full")
    network = load_encodec(folder)
    with torch.no_grad():
        codebook(network)[3, 0] *= 1.001
    assert codebook_identity(network, 2) != load_codec(folder).identity


def test_codes_with_an_older_identity_still_find_their_codec(tmp_path: Path) -> None:
    folder = codec_folder(tmp_path)
    former = codebook_identity(load_encodec(folder), 2, torch.float32)
    codes = CodesFormat(2, 16, load_codec(folder).frame_rate, former, 1)
    assert former != load_codec(folder).identity
    assert load_matching_codec(codes, folder, "cpu", "the codec", "the model").codebooks == 2


@pytest.mark.parametrize("form", ["segue", "hf"])
def test_a_checkpoint_in_half_precision_stays_so_in_every_form(form: Any, half: Path, tmp_path: Path) -> None:
    assert stored_type(half) == HALF
    made = convert_checkpoint(half, tmp_path / "new", form, refuse)
    assert (made.stored, stored_type(tmp_path / "new")) == (HALF, HALF)
    assert same_weights(load_checkpoint(tmp_path / "new", refuse), load_checkpoint(half, refuse))
    if form == "hf":
        assert types(tmp_path / "new" / "model.safetensors") == {torch.float16}
        assert json.loads((tmp_path / "new" / "config.json").read_text())["dtype"] == HALF


@pytest.mark.parametrize("form", ["segue", "audiocraft"])
def test_a_model_in_half_precision_stays_so_and_its_codec_stays_exact(form: Any, tmp_path: Path) -> None:
    folder = half_audiocraft(tmp_path, "unconditional")
    made = convert_checkpoint(folder, tmp_path / "new", form, refuse)
    assert (made.stored, stored_type(tmp_path / "new")) == (HALF, HALF)
    before, after = (load_checkpoint(place, refuse) for place in (folder, tmp_path / "new"))
    assert same_weights(before, after)
    assert before.codec is not None
    assert after.codec is not None
    codec = before.codec.state_dict()
    assert all(torch.equal(codec[name], value) for name, value in after.codec.state_dict().items())
    assert not all(torch.equal(value, value.half().float()) for value in codec.values())


def half_audiocraft(place: Path, name: str) -> Path:
    """AudioCraft's files as published: the language model in half precision, the codec in float32."""
    made = written(place, name)
    content = torch.load(made.folder / "state_dict.bin", weights_only=True)
    content["best_state"] = {name: value.half() for name, value in content["best_state"].items()}
    torch.save(content, made.folder / "state_dict.bin")
    return made.folder


def test_weights_are_rounded_to_the_asked_precision_and_refused_if_too_large_for_it(tmp_path: Path) -> None:
    model = random_musicgen(SHAPES["mono"])
    folder = save(model, SHAPES["mono"], tmp_path / "full")
    made = convert_checkpoint(folder, tmp_path / "half", "hf", refuse, stored="float16")
    assert (made.stored, types(tmp_path / "half" / "model.safetensors")) == (HALF, {torch.float16})
    large, small = (load_checkpoint(tmp_path / name, refuse).model.weights() for name in ("full", "half"))
    assert all(torch.equal(small[name], value.half().float()) for name, value in large.items())
    model.decoder.lm_heads[0].weight.data[0, 0] = 1e5
    folder = save(model, SHAPES["mono"], tmp_path / "large")
    with pytest.raises(ValueError, match=r"expected weights of at most 65504, which float16 can hold, got 100000 in"):
        convert_checkpoint(folder, tmp_path / "wrong", "hf", refuse, stored="float16")
    assert not (tmp_path / "wrong").exists()
    assert convert_checkpoint(folder, tmp_path / "brain", "hf", refuse, stored="bfloat16").stored == "bfloat16"


@pytest.mark.parametrize("shape", ["mono", "stereo"])
@pytest.mark.parametrize("form", ["segue", "hf"])
def test_the_format_of_a_checkpoints_codes_is_found_without_its_weights(shape: str, form: Any, tmp_path: Path) -> None:
    folder = save(random_musicgen(SHAPES[shape]), SHAPES[shape], tmp_path / "hf")
    convert_checkpoint(folder, tmp_path / "new", form, refuse)
    facts = load_checkpoint(tmp_path / "new", refuse).facts
    assert codes_of_checkpoint(tmp_path / "new", refuse) == CodesFormat.from_facts(facts)


@pytest.mark.parametrize("name", ["text", "stereo", "one level of two"])
def test_the_format_of_an_audiocraft_models_codes_is_found_without_its_text_encoder(name: str, tmp_path: Path) -> None:
    folder = written(tmp_path, name).folder
    facts = load_checkpoint(folder, text_encoders(tmp_path)).facts
    assert codes_of_checkpoint(folder, refuse) == CodesFormat.from_facts(facts)


def test_a_codec_given_by_name_alone_is_looked_up(tmp_path: Path) -> None:
    folder, network = written(tmp_path, "text").folder, codec(2, 16)
    torch.save({"pretrained": "facebook/encodec_32khz"}, folder / "compression_state_dict.bin")
    network.save_pretrained(tmp_path / "codec")

    def find_codec(reference: WeightsRef) -> LocalWeights:
        assert reference == "facebook/encodec_32khz"
        return find(WeightsRef(str(tmp_path / "codec")))

    codes = codes_of_checkpoint(folder, find_codec)
    assert codes is not None
    assert codes.identity == codebook_identity(network, 2)
