"""Clips: of the asked length and loudness, never clipped, and the same files even after interruptions."""

import hashlib
import io
import logging
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import mutagen
import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch
from pydantic import ValidationError

from schemas import Settings, Store, WeightsRef
from schemas.identity import canonical, fingerprint
from schemas.tables import CHECKPOINTS, CLIPS, GENERATIONS, LEARNED, REQUESTS, VERDICTS
from schemas.weights import LocalWeights, WeightsLibrary
from stages import decode
from stages.audio import AudioFormat, measure_audio
from stages.audio.credentials import Anchor, read_credentials
from stages.audio.credentials.certificates import load_chain
from stages.audio.credentials.config import PASSWORD
from stages.audio.marks import read_marks, read_own_tags
from stages.checkpoints.codecs import load_codec
from stages.decode import Config
from stages.ingest.config import Limits
from stages.ingest.probe import Refused, probe_recording
from stages.pipeline.contract import Context, Stopped
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.remarks import Remark
from stages.pipeline.runner import StageFailed, run_stage
from tests.worlds.gate_world import passed
from tests.worlds.signers import SignerFiles, serialised
from tests.worlds.tiny_codec import CARDINALITY, CODEBOOKS, FRAME_RATE, SAMPLE_RATE, codec_folder

SECONDS = (1.0, 1.013, 2.5, 0.3)
CREATED = datetime(2026, 5, 4, 23, 59, tzinfo=UTC)
CANARY = "canary-91b2"
HOSTILE = "../../x\"><script>alert(1)</script> '; DROP TABLE clips; --"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return codec_folder(tmp_path_factory.mktemp("codec"), loudness=30.0)


def write_generations(store: Store, rows: list[dict]) -> None:
    """Write codes that the gate let pass into a store."""
    store.write_shard(GENERATIONS, "g", "0", pa.Table.from_pylist(rows, schema=GENERATIONS.schema), "k")
    store.write_shard(VERDICTS, "v", "0", passed(rows), "k")


def new_store(folder: Path) -> Store:
    store = Store(str(folder))
    random = np.random.default_rng(4)
    requests, generations = [], []
    for number, seconds in enumerate(SECONDS):
        request = {
            "request_id": f"{number:016x}",
            "line": number + 2,
            "seconds": seconds,
            "seed": 7,
            "takes": 1 + number % 2,
        }
        requests.append(
            request
            | {"title": HOSTILE if number == 1 else None, "description": "slow strings", "shard": 0, "top_p": 0.0}
            | {"name": f"no. {number}", "temperature": 0.9, "guidance": 3.0, "top_k": 250, "bpm": 97.5}
            | {"key": "C# minor"}
        )
        frames = int(np.ceil(seconds * FRAME_RATE - 1e-6))
        for take in range(1, 2 + number % 2):
            codes = list(random.integers(CARDINALITY, size=(CODEBOOKS, frames)).astype(np.uint16))
            row = {"request_id": request["request_id"], "take": take, "checkpoint_id": "c1", "frame_rate": FRAME_RATE}
            row |= {"cardinality": CARDINALITY, "frames": frames, "seed": 7, "codes": codes, "created_at": CREATED}
            generations.append(row)
    store.write_shard(REQUESTS, "r", "0", pa.Table.from_pylist(requests, schema=REQUESTS.schema), "k")
    write_generations(store, generations)
    learned = [
        {"training_set": "learned", "track_id": f"t{number}", "title": "Silver Window", "artist": "Otter & Vale"}
        | {"licence": licence}
        for number, licence in enumerate(("CC BY 4.0", "https://creativecommons.org/licenses/by/4.0/", None))
    ]
    model = {"checkpoint_id": "c1", "kind": "language_model", "parents": ["c0"], "training_set": "learned"}
    for table, shard, rows in ((LEARNED, "learned", learned), (CHECKPOINTS, "c1", [model])):
        store.write_shard(table, "1", shard, pa.Table.from_pylist(rows, schema=table.schema), "k")
    return store


def context_for(store: Store) -> Context:
    settings = Settings(store=store.url, device="cpu", max_refused=1.0)
    return Context(
        store,
        settings,
        "run",
        "decode",
        "d",
        {"requests": "r", "generations": "g", "verdicts": "v"},
        WeightsLibrary(store),
    )


def made(store: Store, config: Config) -> list[dict]:
    run_stage(ConfiguredStage("decode", decode, config), context_for(store))
    return store.read(CLIPS, "d").to_pylist()


@pytest.mark.parametrize("form", ["flac", "wav", "mp3", "ogg"])
def test_clips_have_the_asked_length_and_loudness_and_keep_the_peak_limit(
    tmp_path: Path, folder: Path, form: str
) -> None:
    store = new_store(tmp_path / "s")
    config = Config.model_validate({"codec": str(folder), "format": form, "loudness": -23.0})
    rows = made(store, config)
    assert len(rows) == 6
    for row in rows:
        data = store.read_bytes(row["path"])
        assert (row["bytes"], row["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert row["path"] == f"audio/version=d/{row['request_id']}-{row['take']}-{row['sha256'][:8]}.{form}"
        heard, rate = soundfile.read(io.BytesIO(data), always_2d=True, dtype="float32")
        asked = round(SECONDS[int(row["request_id"], 16)] * SAMPLE_RATE)
        assert rate == SAMPLE_RATE == row["sample_rate"]
        assert len(heard) == round(row["seconds"] * rate)
        assert len(heard) == asked if form != "mp3" else abs(len(heard) - asked) < 1152
        again = measure_audio(heard.T, rate)
        assert again.true_peak is not None
        assert again.true_peak <= -1.0
        assert row["true_peak"] == again.true_peak
        assert row["clipping"] == 0
        if asked >= 0.4 * SAMPLE_RATE:
            assert row["loudness"] == pytest.approx(-23.0, abs=0.5)


@pytest.mark.parametrize(("form", "bits"), [("flac", 16), ("flac", 24), ("wav", 24)])
def test_a_lossless_clip_below_the_peak_limit_is_the_codecs_sound_with_one_gain(
    tmp_path: Path, folder: Path, form: str, bits: int
) -> None:
    store = new_store(tmp_path / "s")
    levels = {"loudness": -40.0, "max_gain": 60.0}
    rows = made(store, Config.model_validate({"codec": str(folder), "format": form, "bits": bits} | levels))
    generation = store.read(GENERATIONS, "g").to_pylist()[3]
    row = next(
        row for row in rows if (row["request_id"], row["take"]) == (generation["request_id"], generation["take"])
    )
    codes = torch.tensor(generation["codes"])
    raw = load_codec(folder).decode(codes[None])[0].numpy()
    heard, _ = soundfile.read(io.BytesIO(store.read_bytes(row["path"])), always_2d=True, dtype="float32")
    raw = raw[:, : len(heard)]
    gain = 10 ** ((-40.0 - row["loudness_before"]) / 20)
    assert soundfile.info(io.BytesIO(store.read_bytes(row["path"]))).subtype == f"PCM_{bits}"
    np.testing.assert_allclose(heard.T, raw * gain, atol=1.1 / 2 ** (bits - 1))


@pytest.mark.parametrize("loudness", [1e4, 30.0, 1.0])
def test_loud_and_quiet_codecs_reach_the_same_loudness_without_clipping(tmp_path: Path, loudness: float) -> None:
    folder = codec_folder(tmp_path / "codec", loudness)
    rows = made(new_store(tmp_path / "s"), Config.model_validate({"codec": str(folder), "max_gain": 60.0}))
    for row in rows:
        assert row["clipping"] == 0
        assert row["true_peak"] <= -1.0
        if row["loudness_before"] is not None and row["loudness_before"] > -70:
            assert -19.0 < row["loudness"] < -15.9  # noise has peaks, and limiting them reduces the loudness


def test_nearly_silent_sound_is_raised_by_at_most_the_maximum_gain(tmp_path: Path) -> None:
    folder = codec_folder(tmp_path / "codec", 2.0)
    rows = made(new_store(tmp_path / "s"), Config.model_validate({"codec": str(folder), "max_gain": 6.0}))
    quiet = [row for row in rows if row["loudness_before"] is not None]
    assert quiet
    for row in quiet:
        assert row["loudness"] - row["loudness_before"] == pytest.approx(6.0, abs=0.2)


def test_a_clip_that_stays_much_quieter_than_asked_is_remarked(tmp_path: Path) -> None:
    folder = codec_folder(tmp_path / "codec", 2.0)

    def noticed(max_gain: float, loudness: float) -> tuple[list[dict], list[Remark]]:
        context = context_for(new_store(tmp_path / f"s{max_gain:g}"))
        config = Config.model_validate({"codec": str(folder), "max_gain": max_gain, "loudness": loudness})
        tables = (context.rows(table) for table in (VERDICTS, GENERATIONS, REQUESTS))
        rows = [row for part in decode.shard(config, context, *tables) for row in part.rows]
        return rows, context.remarks.all()

    rows, remarks = noticed(6.0, -20.0)
    quiet = [row for row in rows if row["loudness"] is not None and row["loudness"] <= -21.0]
    assert quiet
    assert [(remark.location, remark.count) for remark in remarks] == [("decode.loudness", len(quiet))]
    assert "LUFS, requested -20" in remarks[0].examples[0]
    assert noticed(60.0, -40.0)[1] == []


def test_silence_stays_silence(tmp_path: Path) -> None:
    folder = codec_folder(tmp_path / "codec", 0.0)
    store = new_store(tmp_path / "s")
    rows = made(store, Config.model_validate({"codec": str(folder)}))
    assert len(rows) == 6
    for row in rows:
        assert (row["loudness"], row["true_peak"], row["silence"]) == (None, None, 1.0)
        heard, _ = soundfile.read(io.BytesIO(store.read_bytes(row["path"])))
        assert not heard.any()


def test_sound_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    folder = codec_folder(tmp_path / "codec", float("nan"))
    store = new_store(tmp_path / "s")
    result = run_stage(
        ConfiguredStage("decode", decode, Config.model_validate({"codec": str(folder)})), context_for(store)
    )
    assert (result.counts.made, result.counts.refused) == (0, 6)


def test_a_codec_that_does_not_fit_the_codes_is_refused_by_name(tmp_path: Path) -> None:
    folder = codec_folder(tmp_path / "the-other-codec", cardinality=32)
    with pytest.raises(
        StageFailed, match=r"2 codebooks of 16 codes at 25 .* c1 .*the-other-codec with 2 codebooks of 32"
    ):
        made(new_store(tmp_path / "s"), Config.model_validate({"codec": str(folder)}))


def say(store: Store, **about: object) -> None:
    """Record facts of the codec with the generations."""
    rows = [row | about for row in store.read(GENERATIONS, "g").to_pylist()]
    write_generations(store, rows)


def test_a_codec_of_the_same_sizes_is_refused_by_its_identity(tmp_path: Path, folder: Path) -> None:
    store = new_store(tmp_path / "s")
    say(store, codec_identity=load_codec(folder).identity, channels=1)
    assert len(made(store, Config.model_validate({"codec": str(folder)}))) == 6
    say(store, codec_identity="0" * 64)
    expected = (
        r"expected the codec \(identity 000000000000…\), which the checkpoint c1 uses, got decode.codec = .*codec"
    )
    other = Config.model_validate({"codec": str(folder), "format": "wav"})
    with pytest.raises(StageFailed, match=expected):
        run_stage(ConfiguredStage("decode", decode, other), replace(context_for(store), fingerprint="e"))


def test_stereo_codes_of_a_mono_codec_become_two_channels(tmp_path: Path, folder: Path) -> None:
    store = new_store(tmp_path / "s")
    say(store, codec_identity=load_codec(folder, codebooks=1).identity, channels=2)
    rows = made(store, Config.model_validate({"codec": str(folder), "format": "wav", "true_peak": 0.0}))
    assert {row["channels"] for row in rows} == {2}
    heard, _ = soundfile.read(io.BytesIO(store.read_bytes(rows[2]["path"])), always_2d=True, dtype="float32")
    assert heard.shape == (round(SECONDS[1] * SAMPLE_RATE), 2)
    assert not np.array_equal(heard[:, 0], heard[:, 1])


@pytest.mark.parametrize("form", ["flac", "wav", "mp3", "ogg"])
def test_tags_describe_the_clip_and_state_that_it_was_generated(tmp_path: Path, folder: Path, form: str) -> None:
    store = new_store(tmp_path / "s")
    row = made(store, Config.model_validate({"codec": str(folder), "format": form}))[1]
    tags = {name.lower(): str(value) for name, value in _tags(Path(store.path(row["path"])))}
    assert tags["title"] == HOSTILE
    assert tags["description"] == "slow strings"
    assert (tags["generated"], tags["request"], tags["checkpoint"]) == ("true", row["request_id"], "c1")
    assert (tags["take"], tags["seed"]) == (str(row["take"]), "7")
    asked = {"temperature": "0.9", "guidance": "3", "top_k": "250", "bpm": "97.5", "key": "C# minor", "name": "no. 1"}
    assert {name: tags[name] for name in asked} == asked
    assert tags["date"] == "2026-05-04"
    assert tags["training_licences"] == "CC-BY-4.0 (2), none (1)"
    assert "top_p" not in tags


@pytest.mark.parametrize("form", ["flac", "wav", "mp3", "ogg"])
def test_no_artist_or_title_of_the_training_data_is_in_a_clip(tmp_path: Path, folder: Path, form: str) -> None:
    store = new_store(tmp_path / "s")
    for row in made(store, Config.model_validate({"codec": str(folder), "format": form})):
        data = store.read_bytes(row["path"])
        assert b"CC-BY-4.0 (2)" in data
        assert not any(word in data for word in (b"Otter", b"Vale", b"Silver Window"))


@pytest.mark.parametrize("form", ["flac", "wav", "mp3", "ogg"])
def test_a_clip_states_that_a_trained_model_made_it_and_ingest_refuses_it(
    tmp_path: Path, folder: Path, form: AudioFormat
) -> None:
    store = new_store(tmp_path / "s")
    row = made(store, Config.model_validate({"codec": str(folder), "format": form}))[2]
    with open(store.path(row["path"]), "rb") as file:
        marks = read_marks(file)
    assert marks
    assert {mark.term for mark in marks} == {"trainedAlgorithmicMedia"}
    refused = probe_recording(store.path(row["path"]), Limits())
    assert isinstance(refused, Refused)
    assert refused.kind == "generated"


SIGNED = ("flac", "wav", "mp3")


@pytest.fixture
def label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SignerFiles:
    """A signer with an encrypted key; the folder of the development certificate belongs to the test."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv(PASSWORD, CANARY)
    return SignerFiles(tmp_path / CANARY, password=CANARY)


@pytest.mark.parametrize("form", SIGNED)
def test_a_signed_clip_equals_the_unsigned_one_with_a_claim_and_its_row_describes_the_signed_file(
    tmp_path: Path, folder: Path, label: SignerFiles, form: AudioFormat
) -> None:
    fields = {"codec": str(folder), "format": form}
    plain_store, store = new_store(tmp_path / "a"), new_store(tmp_path / "b")
    plain = made(plain_store, Config.model_validate(fields))
    rows = made(store, Config.model_validate(fields | {"credentials": label.fields}))
    measures = ("request_id", "take", "seconds", "loudness", "true_peak", "sample_rate", "channels")
    assert [[row[name] for name in measures] for row in rows] == [[row[name] for name in measures] for row in plain]
    for row, unsigned in zip(rows, plain, strict=True):
        data = store.read_bytes(row["path"])
        assert (row["bytes"], row["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        without = soundfile.read(io.BytesIO(plain_store.read_bytes(unsigned["path"])))[0]
        np.testing.assert_array_equal(soundfile.read(io.BytesIO(data))[0], without)
        claim = read_credentials(io.BytesIO(data), form, Anchor.read(label.root))
        assert claim is not None
        assert (claim.problems, claim.trusted_by, claim.signer) == ((), "Label Root", "Some Label")
        made_by = {"request": row["request_id"], "take": row["take"], "checkpoint": "c1", "seed": 7}
        assert {name: claim.generation[name] for name in made_by} == made_by
        assert read_own_tags(io.BytesIO(data))["contentcredentials"] == "C2PA"


def test_no_secret_or_path_of_a_signer_is_written_anywhere(
    tmp_path: Path, folder: Path, label: SignerFiles, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store = new_store(tmp_path / "s")
    config = Config.model_validate({"codec": str(folder), "credentials": label.fields})
    depends = decode.dependencies(config, lambda reference: LocalWeights(reference, folder, "d"))
    context = replace(context_for(store), config=canonical(depends.config, {str(folder): "d"}))
    run_stage(ConfiguredStage("decode", decode, config), context)
    files = [path for path in Path(store.root).rglob("*") if path.is_file()]
    assert len(files) > 6
    secret = serialised(label.private_key)
    for path in files:
        data = path.read_bytes()
        assert CANARY.encode() not in data, path  # the password, and the name of the key's folder
        assert secret not in data, path
    assert CANARY not in caplog.text + context.config + str(context.remarks.all())
    assert load_chain(str(label.certificate)).digest in context.config


def test_clips_are_identified_by_the_certificates_digest_and_development_signing_is_remarked(
    tmp_path: Path, folder: Path, label: SignerFiles
) -> None:
    def identity(**credentials: object) -> str:
        config = Config.model_validate({"codec": str(folder), "credentials": credentials or None})
        depends = decode.dependencies(config, lambda reference: LocalWeights(reference, folder, "d"))
        return fingerprint(depends.config, {str(folder): "d"})

    copied = shutil.copy(label.certificate, tmp_path / "copied.pem")
    assert identity(**label.fields) == identity(certificate=str(copied), key=str(label.key))
    assert len({identity(), identity(**label.fields), identity(certificate="development")}) == 3
    store = new_store(tmp_path / "s")
    context = context_for(store)
    verdicts, generations, requests = (context.rows(table) for table in (VERDICTS, GENERATIONS, REQUESTS))
    config = Config.model_validate({"codec": str(folder), "credentials": {}})
    assert len(list(decode.shard(config, context, verdicts, generations, requests))) == 6
    assert "development certificate, which nobody trusts" in context.remarks.all()[0].what


def test_signing_ogg_or_with_a_missing_key_is_refused_before_any_work(folder: Path, label: SignerFiles) -> None:
    with pytest.raises(ValidationError, match=r"one of flac, wav, mp3 with decode.credentials, got ogg"):
        Config.model_validate({"codec": str(folder), "format": "ogg", "credentials": {}})
    missing = {"certificate": str(label.certificate), "key": "/no/such/key.pem"}
    config = Config.model_validate({"codec": str(folder), "credentials": missing})
    with pytest.raises(ValueError, match=r"private key at /no/such/key.pem"):
        decode.dependencies(config, lambda reference: LocalWeights(reference, folder, "d"))


@pytest.mark.parametrize("form", ["flac", "wav", "mp3", "ogg"])
def test_a_clip_rendered_again_is_the_same_file(tmp_path: Path, folder: Path, form: AudioFormat) -> None:
    store = new_store(tmp_path / "s")
    config = Config.model_validate({"codec": str(folder), "format": form})
    row = made(store, config)[1]
    context = context_for(store)
    generation = next(
        each
        for each in context.rows(GENERATIONS).to_pylist()
        if (each["request_id"], each["take"]) == (row["request_id"], row["take"])
    )
    request = next(each for each in context.rows(REQUESTS).to_pylist() if each["request_id"] == row["request_id"])
    assert decode.render_again(config, context, generation, request).data == store.read_bytes(row["path"])


def _tags(path: Path) -> Iterator[tuple[str, str]]:
    names = {"TIT2": "title", "TPE1": "artist", "TBPM": "bpm", "TKEY": "key", "TDRC": "date"}
    found = mutagen.File(path).tags
    for name, value in found.items():
        if hasattr(value, "text"):
            name = "description" if name.startswith("COMM") else names.get(name) or value.desc
            yield name, value.text[0]
        elif isinstance(value, list):
            yield name, value[0]


def test_a_stopped_run_is_completed_with_the_same_files_as_an_undisturbed_one(tmp_path: Path, folder: Path) -> None:
    config = Config.model_validate({"codec": str(folder), "format": "ogg"})
    stores = [new_store(tmp_path / name) for name in ("a", "b")]
    context = context_for(stores[1])

    class StopsAtTheFourth(threading.Event):
        asked = 0

        def is_set(self) -> bool:
            self.asked += 1
            return self.asked == 4

    context.stop = StopsAtTheFourth()
    with pytest.raises(Stopped):
        run_stage(ConfiguredStage("decode", decode, config), context)
    rows = [made(store, config) for store in stores]
    assert rows[0] == rows[1]


def test_a_clip_is_the_same_alone_and_among_others(tmp_path: Path, folder: Path) -> None:
    config = Config(codec=WeightsRef(str(folder)))
    among = {(row["request_id"], row["take"]): row["sha256"] for row in made(new_store(tmp_path / "a"), config)}
    store = new_store(tmp_path / "b")
    one = store.read(GENERATIONS, "g").slice(3, 1)
    write_generations(store, one.to_pylist())
    (row,) = made(store, config)
    assert row["sha256"] == among[row["request_id"], row["take"]]


def test_a_clips_row_is_yielded_after_its_file_and_before_the_next_file(tmp_path: Path, folder: Path) -> None:
    store = new_store(tmp_path)
    context, audio = context_for(store), f"audio/version={context_for(store).fingerprint}"
    config = Config.model_validate({"codec": str(folder)})
    verdicts, generations, requests = (context.rows(table) for table in (VERDICTS, GENERATIONS, REQUESTS))
    parts = decode.shard(config, context, verdicts, generations, requests)
    assert store.files(audio) == []
    (row,) = next(parts).rows
    assert [f"{audio}/{name}" for name in store.files(audio)] == [row["path"]]
    assert [len(part.rows) for part in parts] == [1] * (generations.num_rows - 1)
