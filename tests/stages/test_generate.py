"""Generations: each take's codes follow from model, request and seed; what it cannot follow is refused by its line."""

import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch

from model.chroma import chroma
from model.conditioning.configuration import MusicModelConfig
from model.music_model import MusicModel
from schemas import Settings, Store, WeightsRef
from schemas.tables import CHECKPOINTS, CHROMA, CLAP, GENERATIONS, REJECTS, REQUESTS, TOKENS, TRACKS
from schemas.weights import WeightsLibrary, folder_digest
from stages import generate
from stages.checkpoints.folder import CheckpointFacts, load_text_encoder, save_checkpoint
from stages.checkpoints.loading import load_checkpoint
from stages.codecs import load_codec
from stages.conditions import Conditions, Models
from stages.contract import Context, Stopped
from stages.generate import Config
from stages.joint_embedding import load_joint_embedder
from stages.planning import Step, consulted_digest
from stages.runner import StageFailed, run_stage
from tests.stages.tiny_clap import clap_folder
from tests.stages.tiny_codec import CARDINALITY, CODEBOOKS, FRAME_RATE, SAMPLE_RATE, codec_folder
from tests.stages.tiny_models import text_encoder

TRACK = "ab" * 32
SECONDS = 2.0
"""What the model was trained on."""
VERSIONS = {"requests": "r", "tracks": "t", "chroma": "h", "clap": "e", "tokens": "k"}
DEFAULTS: dict[str, Any] = {
    **{"description": None, "melody": None, "clap": None, "prompt": None, "prompt_seconds": None, "seconds": 1.2},
    **{"takes": 1, "seed": 5, "guidance": 3.0, "temperature": 1.0, "top_k": 250, "top_p": 0.0, "shard": 0},
}


def model_config(**without: None) -> MusicModelConfig:
    values: dict[str, Any] = {
        "description": {"width": 16, "finetune": True},
        "chroma": {"frames": 16},
        "clap": {"width": 3},
    } | without
    cross = tuple(name for name in ("description", "clap") if values[name] is not None)
    prepend = ("chroma",) if values["chroma"] is not None else ()
    sizes = {"codebooks": CODEBOOKS, "cardinality": CARDINALITY, "width": 32, "heads": 2, "layers": 2}
    return MusicModelConfig.model_validate(values | {"language_model": sizes | {"cross": cross, "prepend": prepend}})


def put_checkpoint(store: Store, folder: Path, name: str, config: MusicModelConfig, day: int = 1) -> None:
    """A language model of random weights as a checkpoint of the store."""
    encoder, tokenizer = load_text_encoder(text_encoder(folder / "encoder")) if config.description else (None, None)
    torch.manual_seed(day)
    model = MusicModel(config, encoder, tokenizer)
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(3.0)  # or all codes are about as likely, whatever the conditions
    facts = CheckpointFacts(
        model=config,
        frame_rate=FRAME_RATE,
        segment_seconds=SECONDS,
        text_encoder="encoder" if encoder else None,
        text_encoder_digest=None,
        versions={name: version for name, version in VERSIONS.items() if name != "requests"},
    )
    with store.new_folder(f"models/{name}") as new:
        save_checkpoint(new, model, facts)
        digest = folder_digest(new)
    row: dict[str, Any] = {"checkpoint_id": name, "kind": "language_model", "path": f"models/{name}", "digest": digest}
    row["created_at"] = datetime(2026, 1, day, tzinfo=UTC)
    store.write_shard(CHECKPOINTS, "c", name, pa.Table.from_pylist([row], schema=CHECKPOINTS.schema), name)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "store"))
    random = np.random.default_rng(2)
    codes = list(random.integers(CARDINALITY, size=(CODEBOOKS, 80)).astype(np.uint16))
    melody = list(np.eye(12, dtype=np.float32)[random.integers(12, size=25)])
    rows: dict[Any, dict] = {
        TRACKS: {"track_id": TRACK, "title": "One", "shard": 3},
        CHROMA: {"track_id": TRACK, "frame_rate": 7.8125, "chroma": melody},
        CLAP: {
            "track_id": TRACK,
            "starts": [0.0, 10.0],
            "embeddings": [np.ones(3, np.float32), np.zeros(3, np.float32)],
        },
        TOKENS: {"track_id": TRACK, "frame_rate": FRAME_RATE, "cardinality": CARDINALITY, "frames": 80, "codes": codes},
    }
    for table, row in rows.items():
        shown = pa.Table.from_pylist([row], schema=table.schema)
        store.write_shard(table, VERSIONS[table.name], "3", shown, "k")
    put_checkpoint(store, tmp_path, "one", model_config())
    return store


def context_for(store: Store, **settings: Any) -> Context:
    given = Settings(store=store.url, device="cpu", max_refused=1.0, **settings)
    return Context(store, given, "run", "generate", "g", VERSIONS, WeightsLibrary(store))


def made(store: Store, requests: list[dict], config: Config | None = None) -> dict[tuple[str, int], dict]:
    """Generations by request and take."""
    rows = [DEFAULTS | {"request_id": f"{n:016x}", "line": n + 2} | request for n, request in enumerate(requests)]
    store.write_shard(REQUESTS, "r", "0", pa.Table.from_pylist(rows, schema=REQUESTS.schema), "k")
    run_stage(Step("generate", generate, config or PLAIN), context_for(store))
    return {(row["request_id"], row["take"]): row for row in store.read(GENERATIONS, "g").to_pylist()}


def config(**fields: Any) -> Config:
    return Config.model_validate({"codec": None, "separator": None, "clap": None, "vocabulary": None} | fields)


PLAIN = config()
REQUESTS_OF_ALL_KINDS: list[dict] = [
    {"description": "slow jazz piano"},
    {"description": "slow jazz piano", "melody": f"track:{TRACK}", "seconds": 2.0, "guidance": 5.0},
    {"clap": f"track:{TRACK}", "takes": 3, "top_k": 4},
    {"prompt": f"track:{TRACK}", "prompt_seconds": 0.8, "seconds": 1.5, "temperature": 0.5},
    {"description": "rock", "key": "A minor", "bpm": 92.0, "top_p": 0.9},
    {"seconds": 0.3},
]


def test_every_request_and_take_gets_codes_of_its_length(store: Store) -> None:
    rows = made(store, REQUESTS_OF_ALL_KINDS)
    assert len(rows) == 8
    for (request_id, take), row in rows.items():
        asked = DEFAULTS | REQUESTS_OF_ALL_KINDS[int(request_id, 16)]
        codes = np.array(row["codes"])
        assert codes.shape == (CODEBOOKS, int(np.ceil(asked["seconds"] * FRAME_RATE)))
        assert row["frames"] == codes.shape[1]
        assert codes.max() < CARDINALITY
        assert (row["checkpoint_id"], row["frame_rate"], row["cardinality"]) == ("one", FRAME_RATE, CARDINALITY)
        assert (row["seed"] == 5) == (take == 0)
    assert len({str(rows[f"{2:016x}", take]["codes"]) for take in range(3)}) == 3


def test_the_codes_of_a_request_are_the_same_alone_in_any_company_and_on_another_day(
    store: Store, tmp_path: Path
) -> None:
    together = made(store, REQUESTS_OF_ALL_KINDS)
    for number, request in enumerate(REQUESTS_OF_ALL_KINDS):
        other = Store(str(tmp_path / f"alone-{number}"))
        store.filesystem.copy(f"{store.root}/", f"{other.root}/", recursive=True)
        other.remove("generations")
        name = f"{number:016x}"
        alone = made(
            other, [{"description": "company", "request_id": "f" * 16, "takes": 2}, request | {"request_id": name}]
        )
        mine = {key: row for key, row in alone.items() if key[0] == name}
        assert mine == {key: row for key, row in together.items() if key[0] == name}


def test_new_requests_leave_finished_ones_as_they_are(store: Store) -> None:
    first = made(store, REQUESTS_OF_ALL_KINDS[:2])
    second = made(store, REQUESTS_OF_ALL_KINDS[:4])
    assert {key: second[key] for key in first} == first
    assert len(second) == 6


@pytest.mark.parametrize(
    "change",
    [
        {"description": "fast rock guitar"},
        {"melody": f"track:{TRACK}"},
        {"clap": f"track:{TRACK}"},
        {"seed": 6},
        {"key": "A minor"},
        {"bpm": 120.0},
        {"guidance": 1.0},
        {"temperature": 0.0},
    ],
)
def test_what_a_request_asks_for_changes_its_codes(store: Store, change: dict) -> None:
    base = {"description": "slow jazz piano"}
    rows = made(store, [base, base | change])
    assert rows[f"{0:016x}", 0]["codes"] != rows[f"{1:016x}", 0]["codes"]


def test_a_clip_begins_with_its_prompt(store: Store) -> None:
    row = made(store, [{"prompt": f"track:{TRACK}", "prompt_seconds": 0.8}])[f"{0:016x}", 0]
    codes = np.array(store.read(TOKENS, "k").to_pylist()[0]["codes"])
    assert row["prompt_frames"] == 20
    np.testing.assert_array_equal(np.array(row["codes"])[:, :20], codes[:, :20])


def test_the_melody_that_was_asked_for_is_kept_beside_the_codes(store: Store) -> None:
    row = made(store, [{"melody": f"track:{TRACK}", "seconds": 1.2}])[f"{0:016x}", 0]
    reference = np.array(store.read(CHROMA, "h").to_pylist()[0]["chroma"])
    assert row["chroma_frame_rate"] == 7.8125
    np.testing.assert_array_equal(np.array(row["chroma"]), reference[:10])
    assert made(store, [{"seconds": 0.2, "request_id": "e" * 16}])["e" * 16, 0]["chroma"] is None


def test_a_prompt_and_a_melody_may_be_files(store: Store, tmp_path: Path) -> None:
    codec = codec_folder(tmp_path / "codec")
    time = np.arange(3 * 44_100) / 44_100
    tone = 0.4 * np.stack([np.sin(2 * np.pi * 440 * time), np.sin(2 * np.pi * 440 * time)], axis=1)
    soundfile.write(tmp_path / "a.wav", tone, 44_100)
    file = f"file:{tmp_path}/a.wav"
    rows = made(
        store,
        [{"prompt": file, "prompt_seconds": 0.8}, {"melody": file}, {"melody": file, "seed": 9}],
        config(codec=str(codec)),
    )
    import soxr

    sound = soxr.resample(tone.mean(axis=1), 44_100, SAMPLE_RATE).astype(np.float32)
    codes = load_codec(codec).encode(torch.from_numpy(sound)[None, None, : 45 * 320])[0]
    np.testing.assert_array_equal(np.array(rows[f"{0:016x}", 0]["codes"])[:, :20], codes[:, :20])
    assert (np.array(rows[f"{1:016x}", 0]["chroma"])[2:].argmax(axis=1) == 9).all()  # A
    expected = chroma(torch.from_numpy(soxr.resample(tone.mean(axis=1), 44_100, 32_000).astype(np.float32))[None])[0]
    np.testing.assert_allclose(np.array(rows[f"{1:016x}", 0]["chroma"])[:8], expected[:8], atol=1e-4)


def test_a_joint_embedding_may_come_from_words_or_a_file(store: Store, tmp_path: Path) -> None:
    folder = clap_folder(tmp_path / "clap", 3)
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(160_000) / 9), 16_000)
    soundfile.write(tmp_path / "b.wav", np.random.default_rng(0).normal(size=160_000) * 0.1, 16_000)
    asked = ["text:slow jazz", "text:fast rock", f"file:{tmp_path}/a.wav", f"file:{tmp_path}/b.wav"]
    seen: list[torch.Tensor] = []
    conditions = Conditions(
        context_for(store),
        load_checkpoint(Path(store.path("models/one")), context_for(store).weights).facts,
        Models(None, None, WeightsRef(str(folder)), None),
    )
    for clap in asked:
        found = conditions.of(DEFAULTS | {"clap": clap, "key": None, "bpm": None}).attributes.clap
        assert found is not None
        seen.append(found)
    embedder = load_joint_embedder(folder)
    np.testing.assert_array_equal(seen[0].numpy(), embedder.embed_text(["slow jazz"])[0])
    sound, _ = soundfile.read(tmp_path / "b.wav", dtype="float32", always_2d=True)
    np.testing.assert_array_equal(seen[3].numpy(), embedder.embed_audio(sound.T, 16_000, 10.0).embeddings[0])
    assert all(not torch.equal(one, other) for n, one in enumerate(seen) for other in seen[:n])
    rows = made(store, [{"clap": one} for one in asked], config(clap=str(folder)))
    assert rows[f"{0:016x}", 0]["codes"] != rows[f"{3:016x}", 0]["codes"]


REFUSED = [
    ({"melody": "track:" + "cd" * 32}, "unknown melody", "chroma"),
    ({"clap": "track:" + "cd" * 32}, "unknown clap", "clap"),
    ({"prompt": "track:" + "cd" * 32, "prompt_seconds": 0.5}, "unknown prompt", "tokens"),
    ({"melody": "file:/nothing/there.wav"}, "unknown melody", "/nothing/there.wav"),
    ({"prompt": "file:/nothing/there.wav", "prompt_seconds": 0.5}, "no codec", "generate.codec"),
    ({"clap": "text:words"}, "no clap", "generate.clap"),
    ({"prompt": f"track:{TRACK}", "prompt_seconds": 4.0, "seconds": 1.9}, "prompt too short", "got 3.2"),
    ({"seconds": 2.1}, "too long", "at most 2 s"),
]


@pytest.mark.parametrize(("request_", "kind", "says"), REFUSED)
def test_a_request_that_cannot_be_followed_is_refused_by_its_line(
    store: Store, request_: dict, kind: str, says: str
) -> None:
    rows = made(store, [{"description": "rock"}, request_])
    assert list(rows) == [(f"{0:016x}", 0)]
    (reject,) = store.read(REJECTS, "g").to_pylist()
    assert (reject["key"], reject["kind"]) == (f"{1:016x}", kind)
    assert reject["message"].startswith("line 3: ")
    assert says in reject["message"]


@pytest.mark.parametrize(
    ("without", "asked"),
    [
        ("description", {"description": "rock"}),
        ("chroma", {"melody": f"track:{TRACK}"}),
        ("clap", {"clap": f"track:{TRACK}"}),
    ],
)
def test_a_condition_that_the_model_was_not_trained_with_is_refused(
    store: Store, tmp_path: Path, without: str, asked: dict
) -> None:
    put_checkpoint(store, tmp_path, "two", model_config(**{without: None}), day=2)
    rows = made(store, [{}, asked])
    assert list(rows) == [(f"{0:016x}", 0)]
    (reject,) = store.read(REJECTS, "g").to_pylist()
    assert reject["kind"] == "no such condition"
    assert without in reject["message"]


def test_a_refused_request_is_tried_again_when_its_track_has_come(store: Store) -> None:
    later = "cd" * 32
    assert not made(store, [{"melody": f"track:{later}"}])
    before = consulted_digest(generate, context_for(store))
    for table in (TRACKS, CHROMA):
        rows = store.read(table, VERSIONS[table.name]).to_pylist()
        more = pa.Table.from_pylist([*rows, rows[0] | {"track_id": later}], schema=table.schema)
        store.write_shard(table, VERSIONS[table.name], "3", more, "k2")
    assert consulted_digest(generate, context_for(store)) != before
    assert made(store, [{"melody": f"track:{later}"}])
    assert store.read(REJECTS, "g").num_rows == 0


def test_latest_is_the_newest_checkpoint_and_an_id_stays_with_its_own(store: Store, tmp_path: Path) -> None:
    put_checkpoint(store, tmp_path, "two", model_config(), day=2)
    assert Config(checkpoint=WeightsRef("latest")).checkpoint == "checkpoint:language_model"
    assert Config().checkpoint == "checkpoint:language_model"
    assert isinstance(config(checkpoint="one").checkpoint, WeightsRef)
    rows = made(store, [{}])
    pinned = made(store, [{"request_id": "d" * 16}], config(checkpoint="one"))
    assert rows[f"{0:016x}", 0]["checkpoint_id"] == "two"
    assert pinned["d" * 16, 0]["checkpoint_id"] == "one"


def test_a_longer_clip_may_be_allowed(store: Store) -> None:
    row = made(store, [{"seconds": 3.0}], config(longest=1.5))[f"{0:016x}", 0]
    assert row["frames"] == 75


def test_a_stop_ends_the_work_within_a_step(store: Store) -> None:
    context = context_for(store)
    context.stop = threading.Event()
    rows = [DEFAULTS | {"request_id": "a" * 16, "line": 2, "seconds": 2.0}]
    table = pa.Table.from_pylist(rows, schema=REQUESTS.schema)

    class StopsLater(threading.Event):
        asked = 0

        def is_set(self) -> bool:
            self.asked += 1
            return self.asked > 10

    context.stop = StopsLater()
    with pytest.raises(Stopped):
        generate.shard(PLAIN, context, table)
    assert context.stop.asked == 11


def test_a_broken_model_is_said_to_be_one(store: Store, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = Path(store.path("models/one/model.safetensors"))
    save_file({name: value * float("nan") for name, value in load_file(path).items()}, path)
    with pytest.raises(StageFailed, match="usable model in the checkpoint one"):
        made(store, [{}])
