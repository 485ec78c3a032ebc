"""The conditions that requests refer to: read from tables and files alike, and refused by line if the model reads
none."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch

from model.chroma import chroma as measured_chroma
from schemas import Store, WeightsRef
from schemas.tables import CHROMA, CLAP, TOKENS, TRACKS
from stages import chroma, clap, tokenize
from stages.audio.references import RequestRefused
from stages.checkpoints.codecs import load_codec
from stages.checkpoints.conditions import ConditionReader, melody_over_clip
from stages.checkpoints.generation import RequestConditions
from stages.checkpoints.loading import load_checkpoint
from stages.checkpoints.native import describe_codec, load_encodec
from stages.networks.clap import load_joint_embedder
from tests.worlds.codec_world import piece
from tests.worlds.generation_world import (
    DEFAULTS,
    TRACK,
    VERSIONS,
    config_of,
    context_for,
    filled_store,
    generate_rows,
    model_config,
    put_checkpoint,
    rejects_in,
)
from tests.worlds.parts import put_together
from tests.worlds.tiny_clap import clap_folder
from tests.worlds.tiny_codec import CARDINALITY, CODEBOOKS, FRAME_RATE, SAMPLE_RATE, codec_folder
from tests.worlds.world_of_sound import save_separator

FIELDS = {
    "genre": {"kind": "label", "rows": 500, "width": 8},
    "moods": {"kind": "words", "rows": 500, "width": 8},
    "key": {"kind": "label", "rows": 500, "width": 8},
    "bpm": {"kind": "number", "lowest": 40.0, "highest": 240.0},
    "seconds": {"kind": "number", "lowest": 0.0, "highest": 60.0},
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return filled_store(tmp_path)


def reader_for(store: Store, checkpoint: str = "one", **models: str) -> ConditionReader:
    """Return a reader of the conditions of requests for a checkpoint of the store."""
    context = context_for(store)
    facts = load_checkpoint(Path(store.path(f"models/{checkpoint}")), context.weights).facts
    return ConditionReader(context, facts, config_of(**models))


def read(reader: ConditionReader, **asked: Any) -> RequestConditions:
    row = DEFAULTS | asked
    reader.read_rows([row])
    return reader.read(row)


def melody_of(conditions: RequestConditions, reader: ConditionReader, seconds: float) -> np.ndarray:
    assert conditions.attributes.chroma is not None
    return melody_over_clip(conditions.attributes.chroma.numpy(), reader.facts, seconds)


def test_a_prompt_and_a_melody_may_be_files(store: Store, tmp_path: Path) -> None:
    codec = codec_folder(tmp_path / "codec")
    time = np.arange(3 * 44_100) / 44_100
    tone = 0.4 * np.stack([np.sin(2 * np.pi * 440 * time), np.sin(2 * np.pi * 440 * time)], axis=1)
    soundfile.write(tmp_path / "a.wav", tone, 44_100)
    file = f"file:{tmp_path}/a.wav"
    rows = generate_rows(
        store,
        [{"prompt": file, "prompt_seconds": 0.8}, {"melody": file}, {"melody": file, "seed": 9}],
        config_of(codec=str(codec)),
    )
    import soxr

    sound = soxr.resample(tone.mean(axis=1), 44_100, SAMPLE_RATE).astype(np.float32)
    codes = load_codec(codec).encode(torch.from_numpy(sound)[None, None, : 45 * 320])[0]
    np.testing.assert_array_equal(np.array(rows[f"{0:016x}", 1]["codes"])[:, :20], codes[:, :20])
    assert (np.array(rows[f"{1:016x}", 1]["chroma"])[2:].argmax(axis=1) == 9).all()  # A
    expected = measured_chroma(
        torch.from_numpy(soxr.resample(tone.mean(axis=1), 44_100, 32_000).astype(np.float32))[None]
    )[0]
    np.testing.assert_allclose(np.array(rows[f"{1:016x}", 1]["chroma"])[:8], expected[:8], atol=1e-4)


def listening_codec(folder: Path, sound: np.ndarray) -> Path:
    """A small codec with codebooks made of its encoder's output for a sound, so that different sounds get different
    codes."""
    network = load_encodec(codec_folder(folder))
    with torch.no_grad():
        residual = network.encoder(torch.from_numpy(sound.astype(np.float32))[None, None])[0].T
        for layer in network.quantizer.layers:
            table = residual[torch.linspace(0, len(residual) - 1, CARDINALITY).long()]
            layer.codebook.embed.copy_(table)
            residual = residual - table[torch.cdist(residual, table).argmin(1)]
    network.save_pretrained(folder)
    return folder


def test_a_stereo_model_continues_both_sides_of_a_file(store: Store, tmp_path: Path) -> None:
    sides = np.stack([piece(number, 4.0, SAMPLE_RATE) for number in (1, 2)])
    codec = listening_codec(tmp_path / "codec", sides[0])
    facts = describe_codec(load_encodec(codec), codebooks=2 * CODEBOOKS, channels=2)
    put_checkpoint(store, tmp_path, "two", model_config(codebooks=2 * CODEBOOKS), day=2, codec=facts)
    soundfile.write(tmp_path / "a.wav", sides.T, SAMPLE_RATE, subtype="FLOAT")
    asked = {"prompt": f"file:{tmp_path}/a.wav", "prompt_seconds": 2.4, "seconds": 6.0}
    row = generate_rows(store, [asked], config_of(codec=str(codec)))[f"{0:016x}", 1]
    assert (row["channels"], row["codec_identity"]) == (2, facts.identity)
    codes, read_sides = np.array(row["codes"]), torch.from_numpy(sides[:, None, : (60 + 25) * 320].astype(np.float32))
    left, right = (load_codec(codec).encode(side[None])[0] for side in read_sides)
    assert codes.shape == (4, 150)
    np.testing.assert_array_equal(codes[0::2, :60], left[:, :60])
    np.testing.assert_array_equal(codes[1::2, :60], right[:, :60])
    assert not torch.equal(left, right)


def test_a_joint_embedding_may_come_from_words_or_a_file(store: Store, tmp_path: Path) -> None:
    folder = clap_folder(tmp_path / "clap", 3)
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(160_000) / 9), 16_000)
    soundfile.write(tmp_path / "b.wav", np.random.default_rng(0).normal(size=160_000) * 0.1, 16_000)
    asked = ["text:slow jazz", "text:fast rock", f"file:{tmp_path}/a.wav", f"file:{tmp_path}/b.wav"]
    seen: list[torch.Tensor] = []
    reader = reader_for(store, clap=str(folder))
    for reference in asked:
        embedding = read(reader, clap=reference).attributes.clap
        assert embedding is not None
        seen.append(embedding)
    embedder = load_joint_embedder(folder)
    np.testing.assert_array_equal(seen[0].numpy(), embedder.embed_text(["slow jazz"])[0])
    sound, _ = soundfile.read(tmp_path / "b.wav", dtype="float32", always_2d=True)
    np.testing.assert_array_equal(seen[3].numpy(), embedder.embed_audio(sound.T, 16_000, 10.0).embeddings[0])
    assert all(not torch.equal(one, other) for n, one in enumerate(seen) for other in seen[:n])
    rows = generate_rows(store, [{"clap": reference} for reference in asked], config_of(clap=str(folder)))
    assert rows[f"{0:016x}", 1]["codes"] != rows[f"{3:016x}", 1]["codes"]


def _put_track(store: Store, path: Path, separator: Path, joint: Path, codec: Path) -> None:
    """Write the rows of a recording as the stages of training make them."""
    context = context_for(store)
    tracks = pa.Table.from_pylist([{"track_id": TRACK, "uri": str(path), "shard": 3}], schema=TRACKS.schema)
    store.write_shard(TRACKS, VERSIONS["tracks"], "3", tracks, "k2")
    for table, parts in (
        (CHROMA, chroma.shard(chroma.Config(separator=WeightsRef(str(separator))), context, tracks)),
        (CLAP, clap.shard(clap.Config(model=WeightsRef(str(joint))), context, tracks)),
        (TOKENS, tokenize.shard(tokenize.Config(codec=WeightsRef(str(codec))), context, tracks)),
    ):
        rows = pa.Table.from_pylist(list(put_together(parts).rows), schema=table.schema)
        store.write_shard(table, VERSIONS[table.name], "3", rows, "k2")


def test_a_recording_gives_the_same_conditions_from_the_file_and_from_the_tables(store: Store, tmp_path: Path) -> None:
    separator, joint = save_separator(tmp_path / "separator"), clap_folder(tmp_path / "clap", 3)
    codec, path = listening_codec(tmp_path / "codec", piece(0, 4.0, SAMPLE_RATE)), tmp_path / "a.wav"
    soundfile.write(path, np.concatenate([piece(number, 6.0, 16_000) for number in range(4)]), 16_000)
    _put_track(store, path, separator, joint, codec)
    reader = reader_for(store, separator=str(separator), clap=str(joint), codec=str(codec))
    asked = {"melody": "", "clap": "", "prompt": ""}
    for seconds in (1.2, 2.0, 5.5):
        cached, live = (
            read(reader, seconds=seconds, prompt_seconds=0.8, **dict.fromkeys(asked, reference))
            for reference in (f"track:{TRACK}", f"file:{path}")
        )
        for one, other in (
            (cached.attributes.chroma, live.attributes.chroma),
            (cached.attributes.clap, live.attributes.clap),
            tuple(torch.from_numpy(melody_of(conditions, reader, seconds)) for conditions in (cached, live)),
        ):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
        assert cached.attributes.chroma.std() > 0.1
        assert torch.equal(cached.prompt, live.prompt)
        assert len(live.prompt[0].unique()) > 4


def test_a_model_trained_without_tables_reads_a_track_from_its_file(store: Store, tmp_path: Path) -> None:
    separator, joint = save_separator(tmp_path / "separator"), clap_folder(tmp_path / "clap", 3)
    codec, path = listening_codec(tmp_path / "codec", piece(0, 4.0, SAMPLE_RATE)), tmp_path / "a.wav"
    soundfile.write(path, np.concatenate([piece(number, 6.0, 16_000) for number in range(4)]), 16_000)
    tracks = pa.Table.from_pylist([{"track_id": TRACK, "uri": str(path), "shard": 3}], schema=TRACKS.schema)
    store.write_shard(TRACKS, VERSIONS["tracks"], "3", tracks, "k2")
    put_checkpoint(store, tmp_path, "elsewhere", model_config(), day=2, learned=False)
    reader = reader_for(store, "elsewhere", separator=str(separator), clap=str(joint), codec=str(codec))
    asked = ("melody", "clap", "prompt")
    track, file = (
        read(reader, prompt_seconds=0.8, **dict.fromkeys(asked, reference))
        for reference in (f"track:{TRACK}", f"file:{path}")
    )
    assert torch.equal(track.attributes.chroma, file.attributes.chroma)
    assert torch.equal(track.attributes.clap, file.attributes.clap)
    assert torch.equal(track.prompt, file.prompt)
    for column in asked:
        with pytest.raises(RequestRefused, match=f"{column}: expected the track cdcd.* in tracks, got no such row"):
            read(reader, prompt_seconds=0.8, **{column: "track:" + "cd" * 32})


def test_a_long_clip_follows_all_of_a_melody_and_a_short_one_its_beginning(store: Store) -> None:
    reader, reference = reader_for(store), np.array(store.read(CHROMA, "h").to_pylist()[0]["chroma"])
    for seconds, frames in ((0.5, 16), (2.0, 16), (2.1, 25), (60.0, 25)):
        chroma_read = read(reader, melody=f"track:{TRACK}", seconds=seconds).attributes.chroma
        np.testing.assert_array_equal(chroma_read.numpy(), reference[:frames])


def test_a_melody_is_given_at_the_models_own_rate(store: Store, tmp_path: Path) -> None:
    put_checkpoint(store, tmp_path, "fast", model_config(chroma={"frames": 50, "frame_rate": 25.0}), day=2)
    reference = np.array(store.read(CHROMA, "h").to_pylist()[0]["chroma"])
    reader = reader_for(store, "fast")
    conditions = read(reader, melody=f"track:{TRACK}", seconds=1.0)
    nearest = np.rint(np.arange(50) / 25.0 * 7.8125).astype(int)
    np.testing.assert_array_equal(conditions.attributes.chroma.numpy(), reference[nearest])
    np.testing.assert_array_equal(melody_of(conditions, reader, 1.0), reference[nearest[:25]])
    (row,) = generate_rows(store, [{"melody": f"track:{TRACK}", "seconds": 1.0}], config_of(checkpoint="fast")).values()
    assert (row["chroma_frame_rate"], len(row["chroma"])) == (25.0, 25)


def test_only_the_fields_that_the_model_reads_are_given(store: Store, tmp_path: Path) -> None:
    put_checkpoint(store, tmp_path, "fields", model_config(fields=FIELDS), day=2)
    reader = reader_for(store, "fields")
    asked = {"description": "slow", "key": "A minor", "bpm": 92.0, "fields": [("genre", "rock"), ("moods", "dark")]}
    attributes = read(reader, **asked).attributes
    assert attributes.fields == {"genre": "rock", "moods": "dark", "key": "A minor", "bpm": 92.0, "seconds": 1.2}
    assert attributes.description == "slow. key: A minor. bpm: 92", "key and tempo are in the text as in training"
    assert read(reader).attributes.fields == {"seconds": 1.2}
    asked |= {"temperature": 8.0}
    rows = generate_rows(
        store, [asked, asked | {"fields": [("genre", "jazz"), ("moods", "dark")]}, asked | {"bpm": 180.0}]
    )
    assert len({str(row["codes"]) for row in rows.values()}) == 3
    assert read(reader_for(store), key="A minor", bpm=92.0).attributes.fields == {}


CHART = {"bpm": 120.0, "meter": "3/4", "chords": "C | F:1 G:2"}


def test_tempo_metre_and_chords_become_conditions_for_every_frame(store: Store, tmp_path: Path) -> None:
    bpm = {"kind": "number", "lowest": 40.0, "highest": 240.0}
    put_checkpoint(store, tmp_path, "band", model_config(beat={}, chords={}, fields={"bpm": bpm}), day=2)
    reader = reader_for(store, "band")
    attributes = read(reader, seconds=4.0, **CHART).attributes
    frames = math.ceil(4.0 * FRAME_RATE)
    times = (np.arange(frames) + 0.5) / FRAME_RATE
    turned = 2 * np.pi * np.stack([times / 0.5, times / 1.5])
    np.testing.assert_allclose(attributes.beat[:, 0], np.sin(turned[0]), atol=1e-5)
    np.testing.assert_allclose(attributes.beat[:, -2], np.sin(turned[1]), atol=1e-5)
    np.testing.assert_allclose(attributes.beat[:, -1], np.cos(turned[1]), atol=1e-5)
    place = times % 3.0
    roots = np.select([place < 1.5, place < 2.0], [0, 5], 7)
    np.testing.assert_array_equal(attributes.chords[:, :12].argmax(1), roots)
    np.testing.assert_array_equal(attributes.chords[:, 27:39].argmax(1), roots)
    for root, sounding in ((0, {0, 4, 7}), (5, {5, 9, 0})):
        told = attributes.chords[np.flatnonzero(roots == root)[0], 39:]
        assert set(np.flatnonzero(told).tolist()) == sounding
    assert attributes.fields == {"bpm": 120.0}
    assert attributes.description == "bpm: 120"
    without = read(reader, bpm=120.0).attributes
    assert without.names == ("description", "bpm", "beat")
    four = read(reader, bpm=120.0, meter="4/4").attributes
    assert torch.equal(without.beat, four.beat), "4/4 where no metre is named"
    assert read(reader, description="slow").attributes.names == ("description",)


def test_chords_and_metre_change_a_clip_also_past_its_first_window(store: Store, tmp_path: Path) -> None:
    put_checkpoint(store, tmp_path, "band", model_config(beat={}, chords={}), day=2)
    base = CHART | {"meter": "4/4", "chords": "C | C | C | G", "seconds": 7.0, "guidance": 4.0}
    changes = [{}, {"chords": "C | C | C | F#dim"}, {"meter": "3/4"}, {"bpm": 90.0}]
    rows = generate_rows(store, [base | change for change in changes])
    codes = [np.array(rows[f"{number:016x}", 1]["codes"]) for number in range(4)]
    assert len({made.tobytes() for made in codes}) == 4
    same = (codes[0] == codes[1]).all(axis=0)
    # The chord differs from bar 4, second 6, on, in the last of several windows; codes are predicted a little ahead.
    assert same[: int(5.8 * FRAME_RATE)].all()
    assert not same.all()


@pytest.mark.parametrize(
    ("reads", "asked", "says"),
    [
        ({}, {"bpm": 90.0, "chords": "C"}, "chords: expected a model that was trained with chords, got"),
        ({"beat": {}}, {"bpm": 90.0, "chords": "C"}, "chords: expected a model that was trained with chords, got"),
        ({}, {"bpm": 90.0, "meter": "3/4"}, "meter: expected a model that was trained with beat, got"),
        ({"chords": {}}, {"bpm": 90.0, "meter": "3/4"}, "meter: expected a model that was trained with beat, got"),
        ({"chords": {}, "description": None}, {"bpm": 90.0}, "bpm: expected a model that was trained with description"),
        ({"chords": {}, "description": None}, {"bpm": 90.0, "meter": "3/4", "chords": "C"}, None),
        ({"beat": {}, "description": None}, {"bpm": 90.0, "meter": "3/4"}, None),
    ],
)
def test_beats_and_chords_are_refused_if_the_model_reads_none(
    store: Store, tmp_path: Path, reads: dict, asked: dict, says: str | None
) -> None:
    put_checkpoint(store, tmp_path, "two", model_config(**reads), day=2)
    rows = generate_rows(store, [{}, asked])
    assert len(rows) == (2 if says is None else 1)
    assert [says in reject["message"] for reject in rejects_in(store)] == ([] if says is None else [True])


def test_a_request_without_words_has_no_description(store: Store) -> None:
    for description in (None, "", "  "):
        assert read(reader_for(store), description=description).attributes.description is None


REFUSED = [
    ({"melody": "track:" + "cd" * 32}, "unknown melody", "chroma"),
    ({"clap": "track:" + "cd" * 32}, "unknown clap", "clap"),
    ({"prompt": "track:" + "cd" * 32, "prompt_seconds": 0.5}, "unknown prompt", "tokens"),
    ({"melody": "file:/nothing/there.wav"}, "unknown melody", "/nothing/there.wav"),
    ({"prompt": "file:/nothing/there.wav", "prompt_seconds": 0.5}, "no codec", "generate.codec"),
    ({"clap": "text:words"}, "no clap", "generate.clap"),
    ({"prompt": f"track:{TRACK}", "prompt_seconds": 4.0, "seconds": 1.9}, "prompt too short", "got 3.2"),
    ({"fields": [("genre", "rock")]}, "no such condition", "genre: expected a model that was trained with genre, got"),
    ({"prompt": f"track:{TRACK}", "prompt_seconds": 4.0, "seconds": 9.0}, "prompt too short", "expected 4 s"),
]


def test_requests_that_cannot_be_followed_are_refused_by_their_lines(store: Store) -> None:
    rows = generate_rows(store, [{"description": "rock"}, *(request for request, _, _ in REFUSED)])
    assert list(rows) == [(f"{0:016x}", 1)]
    rejects = {reject["key"]: reject for reject in rejects_in(store)}
    assert len(rejects) == len(REFUSED)
    for number, (request, kind, says) in enumerate(REFUSED, 1):
        reject = rejects[f"{number:016x}"]
        assert reject["kind"] == kind, request
        assert reject["message"].startswith(f"line {number + 2}: ")
        assert says in reject["message"]


@pytest.mark.parametrize(
    ("without", "asked"),
    [
        ("description", [{"description": "rock"}, {"bpm": 92.0}, {"key": "A minor"}, {"guidance_text": 2.0}]),
        ("chroma", [{"melody": f"track:{TRACK}"}]),
        ("clap", [{"clap": f"track:{TRACK}"}]),
    ],
)
def test_a_condition_that_the_model_was_not_trained_with_is_refused(
    store: Store, tmp_path: Path, without: str, asked: list[dict]
) -> None:
    put_checkpoint(store, tmp_path, "two", model_config(**{without: None}), day=2)
    rows = generate_rows(store, [{}, *asked])
    assert list(rows) == [(f"{0:016x}", 1)]
    rejects = rejects_in(store)
    assert sorted(reject["key"] for reject in rejects) == [f"{number:016x}" for number in range(1, len(asked) + 1)]
    for reject in rejects:
        assert reject["kind"] == "no such condition"
        assert without in reject["message"]
