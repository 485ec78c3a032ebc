"""Codecs of every kind in the stages: loaded from folders, used for tables, clips and checkpoints, refused by name."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from model.codec.codec import Codec
from model.codec.stereo import StereoCodec
from schemas import Settings, Store, WeightsRef
from schemas.tables import CLIPS, GENERATIONS, REQUESTS, VERDICTS
from schemas.weights import WeightsLibrary
from stages import decode
from stages.audio import read_audio
from stages.checkpoints.codecs import CodesFormat, load_codec, load_codec_network, load_matching_codec
from stages.checkpoints.converting import convert_checkpoint
from stages.checkpoints.loading import load_checkpoint
from stages.checkpoints.native import TrainedModel, describe_codec, load_encodec, save_checkpoint
from stages.pipeline.contract import Context
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import StageFailed, run_stage
from stages.tokenize import Config
from tests.worlds.codec_world import piece, tokens_of, track
from tests.worlds.gate_world import passed
from tests.worlds.small_checkpoint import find, refuse, same_weights, small_checkpoint
from tests.worlds.small_codecs import CARDINALITY, HOPS, LEVELS, RATE, small_dac, small_mimi
from tests.worlds.tiny_codec import codec_folder

KINDS = {"dac": "DAC", "mimi": "Mimi"}


def saved(kind: str, folder: Path, seed: int = 0) -> Path:
    """The folder of a small codec, as transformers writes it."""
    (small_dac(seed=seed) if kind == "dac" else small_mimi(seed=seed)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(kind, tmp_path_factory.mktemp("codec") / "codec")


def clips_of(store: Store, tokens: dict[str, Any], codec: Path) -> list[dict]:
    """Decode a track's codes as if a model had generated them."""
    request = {"request_id": "a" * 16, "line": 2, "seconds": tokens["frames"] / tokens["frame_rate"], "shard": 0}
    generation = {
        name: tokens[name] for name in ("codec_identity", "channels", "frame_rate", "cardinality", "frames", "codes")
    }
    generation |= {"request_id": "a" * 16, "take": 1, "checkpoint_id": "c1", "seed": 1}
    asked = pa.Table.from_pylist([request | {"seed": 1, "takes": 1}], schema=REQUESTS.schema)
    store.write_shard(REQUESTS, "r", "0", asked, "k")
    store.write_shard(GENERATIONS, "g", "0", pa.Table.from_pylist([generation], schema=GENERATIONS.schema), "k")
    store.write_shard(VERDICTS, "v", "0", passed([generation]), "k")
    settings = Settings(store=store.url, device="cpu")
    context = Context(
        store,
        settings,
        "run",
        "decode",
        "d",
        {"requests": "r", "generations": "g", "verdicts": "v"},
        WeightsLibrary(store),
    )
    config = decode.Config.model_validate({"codec": str(codec), "format": "wav", "bits": 24, "loudness": -40.0})
    run_stage(ConfiguredStage("decode", decode, config), context)
    return store.read(CLIPS, "d").to_pylist()


@pytest.mark.parametrize("channels", ["codec", "stereo"])
def test_a_track_is_encoded_to_codes_and_decoded_to_a_clip(
    tmp_path: Path, kind: str, folder: Path, channels: str
) -> None:
    sides = np.stack([piece(1), piece(2)], axis=1)
    row = track(tmp_path / "a.wav", sides, "train")
    config = Config.model_validate({"codec": str(folder), "channels": channels})
    tokens = tokens_of(tmp_path / "tokens", [row], config)[0][row["track_id"]]
    sound = torch.from_numpy(read_audio(row["uri"]).samples)
    codec: Codec | StereoCodec = Codec(load_codec_network(folder))
    if channels == "stereo":
        codec = StereoCodec(codec)
    else:
        sound = sound.mean(dim=0, keepdim=True)
    codes = codec.encode(sound[None])[0]
    assert np.array_equal(np.array(tokens["codes"]), codes)
    assert tokens["frames"] == -(-2 * RATE // HOPS[kind])
    assert (tokens["frame_rate"], tokens["cardinality"]) == (RATE / HOPS[kind], CARDINALITY)
    assert (tokens["codec_identity"], tokens["channels"]) == (codec.identity, codec.channels)
    clip = clips_of(Store(str(tmp_path / "clips")), tokens, folder)[0]
    heard, rate = soundfile.read(
        io.BytesIO(Store(str(tmp_path / "clips")).read_bytes(clip["path"])), always_2d=True, dtype="float32"
    )
    raw = codec.decode(codes[None])[0].numpy()
    assert (rate, heard.shape) == (RATE, (2 * RATE, codec.channels))
    gain = np.float32(10 ** ((-40.0 - clip["loudness_before"]) / 20))
    np.testing.assert_allclose(heard.T, raw[:, : 2 * RATE] * gain, atol=1e-5)


def test_a_row_depends_neither_on_its_neighbours_nor_on_how_it_is_cut(tmp_path: Path, kind: str, folder: Path) -> None:
    rows = [track(tmp_path / f"{n}.wav", piece(n, 3.0 + n), "train") for n in range(3)]
    seconds = 2.5 if kind == "mimi" else 1.0
    cut, _ = tokens_of(tmp_path / "cut", rows, Config(codec=WeightsRef(str(folder)), window_seconds=seconds))
    whole, _ = tokens_of(tmp_path / "whole", rows[::-1], Config(codec=WeightsRef(str(folder))))
    for row in rows:
        one, other = (np.array(made[row["track_id"]]["codes"]) for made in (cut, whole))
        assert one.shape == other.shape
        assert (one == other).mean() > 0.99
        alone, _ = tokens_of(tmp_path / row["track_id"][:5], [row], Config(codec=WeightsRef(str(folder))))
        assert alone[row["track_id"]] == whole[row["track_id"]]


def test_codes_of_fewer_codebooks_are_decoded_with_that_number(tmp_path: Path, folder: Path) -> None:
    row = track(tmp_path / "a.wav", piece(1), "train")
    tokens = tokens_of(tmp_path / "s", [row], Config(codec=WeightsRef(str(folder)), codebooks=2))[0][row["track_id"]]
    codec = load_matching_codec(CodesFormat.from_row(tokens), folder, "cpu", "decode.codec = X", "the checkpoint Y")
    assert (len(tokens["codes"]), codec.codebooks) == (2, 2)
    assert codec.identity == tokens["codec_identity"] != load_codec(folder).identity


def test_codes_of_another_codec_are_refused_by_name(tmp_path: Path, kind: str, folder: Path) -> None:
    row = track(tmp_path / "a.wav", piece(1), "train")
    tokens = tokens_of(tmp_path / "s", [row], Config(codec=WeightsRef(str(folder))))[0][row["track_id"]]
    other = saved(kind, tmp_path / "other", seed=1)
    with pytest.raises(StageFailed, match=r"expected the codec \(identity .* c1 uses, got decode.codec = .*other"):
        clips_of(Store(str(tmp_path / "clips")), tokens, other)
    encodec = codec_folder(tmp_path / "encodec")
    with pytest.raises(
        StageFailed, match=rf"expected a codec of 3 codebooks of 16 codes at {RATE / HOPS[kind]:g} .* 25"
    ):
        clips_of(Store(str(tmp_path / "clips")), tokens, encodec)


def checkpoint_with(kind: str, folder: Path, tmp_path: Path, reads: bool = True) -> TrainedModel:
    """A model of the codes of the folder's codec."""
    small = small_checkpoint(tmp_path, codebooks=LEVELS, named=False, reads=reads)
    network = load_codec_network(folder)
    facts = small.trained.facts.model_copy(
        update={"codec": describe_codec(network, LEVELS, 1, str(folder)), "frame_rate": RATE / HOPS[kind]}
    )
    save_checkpoint(small.folder, small.trained.model, facts)
    return TrainedModel(small.trained.model, facts, network)


def test_a_converted_checkpoint_contains_its_codec_and_can_be_used_as_one(
    tmp_path: Path, kind: str, folder: Path
) -> None:
    trained = checkpoint_with(kind, folder, tmp_path)
    made = convert_checkpoint(tmp_path / "checkpoint", tmp_path / "new", "segue", find)
    assert made.codec.startswith("its codec (identity ")
    read = load_checkpoint(tmp_path / "new", refuse)
    assert same_weights(read, trained)
    assert type(read.codec) is type(trained.codec)
    codec = load_matching_codec(
        CodesFormat.from_facts(read.facts), tmp_path / "new", "cpu", "decode.codec = new", "the model"
    )
    assert codec.identity == load_codec(folder).identity == load_codec(tmp_path / "new").identity
    codes = torch.randint(CARDINALITY, (LEVELS, 30))
    assert torch.equal(codec.decode_track(codes), load_codec(folder).decode_track(codes))
    network: Any = read.codec
    with torch.no_grad():
        tables = [
            value for name, value in network.state_dict().items() if "codebook.weight" in name or "embed_sum" in name
        ]
        tables[0].add_(1)
    network.save_pretrained(tmp_path / "new" / "codec")
    with pytest.raises(
        ValueError, match=r"expected the codec with identity [0-9a-f]{64}, which the checkpoint .*new uses"
    ):
        load_checkpoint(tmp_path / "new", refuse)


@pytest.mark.parametrize(("form", "message"), [
    ("hf", "expected an EnCodec, the only codec of Hugging Face's MusicGen, got {}"),
    ("audiocraft", "expected an EnCodec to write in AudioCraft's form, got {}"),
])  # fmt: skip
def test_a_form_that_cannot_hold_the_codec_refuses_it_by_name(
    tmp_path: Path, kind: str, folder: Path, form: Any, message: str
) -> None:
    checkpoint_with(kind, folder, tmp_path, reads=form == "hf")
    with pytest.raises(ValueError, match=message.format(KINDS[kind])):
        convert_checkpoint(tmp_path / "checkpoint", tmp_path / "new", form, find)
    assert not (tmp_path / "new").exists()


def test_a_folder_of_another_kind_is_refused_by_its_kind(tmp_path: Path, kind: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=f"expected an EnCodec in {folder}, got a {KINDS[kind]}"):
        load_encodec(folder)
    broken = saved(kind, tmp_path / "broken")
    config = json.loads((broken / "config.json").read_text())
    for wrong in ("xcodec", None, 3, ["dac"]):
        (broken / "config.json").write_text(json.dumps(config | {"model_type": wrong}))
        with pytest.raises(
            ValueError, match=r"expected a codec's folder .* of type encodec, dac, mimi in .*, got one of"
        ):
            load_codec(broken)
    (broken / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"expected a codec's folder .*, got one of type None"):
        load_codec(broken)
    (broken / "config.json").write_text(json.dumps(config | {"codebook_size": 15}))
    with pytest.raises(ValueError, match=r"expected a codec's folder .* in .*broken, got"):
        load_codec(broken)


def test_missing_weights_are_refused_and_not_invented(tmp_path: Path, kind: str) -> None:
    broken = saved(kind, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    lost = next(name for name in tensors if name.endswith(("codebook.weight", "codebook.embed_sum")))
    save_file(
        {name: value for name, value in tensors.items() if name != lost}, broken / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ValueError, match=r"got no weights for .*codebook"):
        load_codec(broken)
