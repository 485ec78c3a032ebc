"""Generations: the codes of each take follow from model, request and seed, for every length."""

import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from schemas import Store, WeightsRef
from schemas.tables import CHECKPOINTS, CHROMA, REJECTS, REQUESTS, TOKENS, TRACKS
from schemas.weights import NotTrainedYet, WeightsLibrary, folder_digest
from stages import generate
from stages.checkpoints.conditions import ConditionReader
from stages.checkpoints.facts import read_facts
from stages.checkpoints.generation import RequestConditions
from stages.generate import Config
from stages.pipeline import machine
from stages.pipeline.contract import Dependencies, Progress, Shard, Stopped
from stages.pipeline.runner import StageFailed
from stages.pipeline.shard_plans import consulted_digest
from tests.worlds.audiocraft_files import written
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
)
from tests.worlds.parts import put_together
from tests.worlds.tiny_codec import CARDINALITY, CODEBOOKS, FRAME_RATE

REQUESTS_OF_ALL_KINDS: list[dict] = [
    {"description": "slow jazz piano"},
    {"description": "slow jazz piano", "melody": f"track:{TRACK}", "seconds": 2.0, "guidance": 5.0},
    {"clap": f"track:{TRACK}", "takes": 3, "top_k": 4},
    {"prompt": f"track:{TRACK}", "prompt_seconds": 0.8, "seconds": 1.5, "temperature": 0.5},
    {"description": "rock", "key": "A minor", "bpm": 92.0, "top_p": 0.9},
    {"seconds": 0.3},
    {"description": "slow jazz piano", "melody": f"track:{TRACK}", "seconds": 4.7, "guidance_text": 2.0},
    {"prompt": f"track:{TRACK}", "prompt_seconds": 2.5, "seconds": 5.0},
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return filled_store(tmp_path)


def test_every_request_and_take_gets_codes_of_its_length(store: Store) -> None:
    rows = generate_rows(store, REQUESTS_OF_ALL_KINDS)
    assert len(rows) == 10
    for (request_id, take), row in rows.items():
        asked = DEFAULTS | REQUESTS_OF_ALL_KINDS[int(request_id, 16)]
        codes = np.array(row["codes"])
        assert codes.shape == (CODEBOOKS, int(np.ceil(asked["seconds"] * FRAME_RATE)))
        assert row["frames"] == codes.shape[1]
        assert codes.max() < CARDINALITY
        assert (row["checkpoint_id"], row["frame_rate"], row["cardinality"]) == ("one", FRAME_RATE, CARDINALITY)
        assert (row["seed"] == 5) == (take == 1)
    assert len({str(rows[f"{2:016x}", take]["codes"]) for take in range(1, 4)}) == 3


def test_the_codes_of_a_request_are_the_same_alone_and_in_any_batch(store: Store, tmp_path: Path) -> None:
    together = generate_rows(store, REQUESTS_OF_ALL_KINDS)
    for number, request in enumerate(REQUESTS_OF_ALL_KINDS):
        other = Store(str(tmp_path / f"alone-{number}"))
        store.filesystem.copy(f"{store.root}/", f"{other.root}/", recursive=True)
        for table in ("generations", "publications"):
            other.remove(table)
        name = f"{number:016x}"
        alone = generate_rows(
            other, [{"description": "company", "request_id": "f" * 16, "takes": 2}, request | {"request_id": name}]
        )
        mine = {key: row for key, row in alone.items() if key[0] == name}
        assert mine == {key: row for key, row in together.items() if key[0] == name}


def test_new_requests_leave_finished_ones_unchanged(store: Store) -> None:
    first = generate_rows(store, REQUESTS_OF_ALL_KINDS[:2])
    second = generate_rows(store, REQUESTS_OF_ALL_KINDS[:4])
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
        {"melody": f"track:{TRACK}", "guidance_text": 4.0},
        {"temperature": 0.0},
    ],
)
def test_every_parameter_of_a_request_changes_its_codes(store: Store, change: dict) -> None:
    base = {"description": "slow jazz piano"}
    rows = generate_rows(store, [base, base | change])
    assert rows[f"{0:016x}", 1]["codes"] != rows[f"{1:016x}", 1]["codes"]


def test_a_clip_begins_with_its_prompt(store: Store) -> None:
    row = generate_rows(store, [{"prompt": f"track:{TRACK}", "prompt_seconds": 0.8}])[f"{0:016x}", 1]
    codes = np.array(store.read(TOKENS, "k").to_pylist()[0]["codes"])
    assert row["prompt_frames"] == 20
    np.testing.assert_array_equal(np.array(row["codes"])[:, :20], codes[:, :20])


@pytest.mark.parametrize("seconds", [0.4, 1.2, 2.0, 2.1, 7.0])
def test_the_requested_melody_is_kept_beside_the_codes(store: Store, seconds: float) -> None:
    row = generate_rows(store, [{"melody": f"track:{TRACK}", "seconds": seconds}])[f"{0:016x}", 1]
    reference = np.array(store.read(CHROMA, "h").to_pylist()[0]["chroma"])
    assert row["chroma_frame_rate"] == 7.8125
    # It is 25 frames long, and is repeated in a clip of several windows.
    frames = np.arange(np.ceil(seconds * 7.8125)).astype(int) % 25
    np.testing.assert_array_equal(np.array(row["chroma"]), reference[frames])
    assert generate_rows(store, [{"seconds": 0.2, "request_id": "e" * 16}])["e" * 16, 1]["chroma"] is None


def test_a_clip_longer_than_the_training_windows_is_made_in_windows(store: Store) -> None:
    base = {"description": "slow jazz piano", "melody": f"track:{TRACK}", "guidance": 4.0}
    rows = generate_rows(store, [base | {"seconds": seconds} for seconds in (2.0, 2.8, 4.4, 8.0)])
    codes = [np.array(rows[f"{number:016x}", 1]["codes"]) for number in range(4)]
    assert [clip.shape[1] for clip in codes] == [50, 70, 110, 200]
    for clip in codes[1:]:
        np.testing.assert_array_equal(clip[:, :50], codes[0])
    np.testing.assert_array_equal(codes[3][:, :80], codes[2][:, :80])


def test_another_stride_form_of_guidance_or_precision_gives_another_clip(store: Store, tmp_path: Path) -> None:
    put_checkpoint(store, tmp_path, "two", model_config(prepend=("description", "chroma")), day=2)
    asked, clips = {"description": "slow jazz piano", "seconds": 2.8}, []
    changes: list[dict] = [{}, {"stride": 0.3}, {"guidance_form": "two_pass"}, {"precision": "bfloat16"}]
    for number, config in enumerate(config_of(**change) for change in changes):
        name = f"{number}" * 16
        clips.append(str(generate_rows(store, [asked | {"request_id": name}], config)[name, 1]["codes"]))
    assert len(set(clips)) == 4


@pytest.mark.parametrize("prompt_seconds", [0.4, 1.3, 2.0, 3.1])
def test_a_prompt_shorter_or_longer_than_a_window_is_continued(store: Store, prompt_seconds: float) -> None:
    asked = {"prompt": f"track:{TRACK}", "prompt_seconds": prompt_seconds, "seconds": 5.2, "melody": f"track:{TRACK}"}
    row = generate_rows(store, [asked])[f"{0:016x}", 1]
    codes, frames = np.array(store.read(TOKENS, "k").to_pylist()[0]["codes"]), round(prompt_seconds * FRAME_RATE)
    assert row["prompt_frames"] == frames
    assert np.array(row["codes"]).shape == (CODEBOOKS, 130)
    np.testing.assert_array_equal(np.array(row["codes"])[:, :frames], codes[:, :frames])


def test_a_refused_request_is_tried_again_when_its_track_arrives(store: Store) -> None:
    later = "cd" * 32
    assert not generate_rows(store, [{"melody": f"track:{later}"}])
    before = consulted_digest(generate, context_for(store))
    for table in (TRACKS, CHROMA):
        rows = store.read(table, VERSIONS[table.name]).to_pylist()
        more = pa.Table.from_pylist([*rows, rows[0] | {"track_id": later}], schema=table.schema)
        store.write_shard(table, VERSIONS[table.name], "3", more, "k2")
    assert consulted_digest(generate, context_for(store)) != before
    assert generate_rows(store, [{"melody": f"track:{later}"}])
    assert store.read(REJECTS, "g").num_rows == 0


def test_latest_is_the_newest_checkpoint_and_an_id_stays_with_its_own(store: Store, tmp_path: Path) -> None:
    put_checkpoint(store, tmp_path, "two", model_config(), day=2)
    assert Config(checkpoint=WeightsRef("latest")).checkpoint == "checkpoint:language_model"
    assert Config().checkpoint == "checkpoint:language_model"
    assert isinstance(config_of(checkpoint="one").checkpoint, WeightsRef)
    rows = generate_rows(store, [{}])
    pinned = generate_rows(store, [{"request_id": "d" * 16}], config_of(checkpoint="one"))
    assert rows[f"{0:016x}", 1]["checkpoint_id"] == "two"
    assert pinned["d" * 16, 1]["checkpoint_id"] == "one"


def _asked(number: int) -> pa.Table:
    """Requests of two seconds each, as the stage receives them."""
    return _asked_rows([{"seconds": 2.0}] * number)


def _asked_rows(requests: list[dict]) -> pa.Table:
    """Requests as the stage receives them."""
    rows = [DEFAULTS | {"request_id": f"{n:016x}", "line": n + 2} | request for n, request in enumerate(requests)]
    return pa.Table.from_pylist(rows, schema=REQUESTS.schema)


def _shard(store: Store, asked: pa.Table, **fields: Any) -> Iterator[Shard]:
    return generate.shard(config_of(), replace(context_for(store), **fields), asked)


def _assert_same_row(row: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for name, value in row.items():
        assert name == "created_at" or np.array_equal(value, expected[name]), name


class Counts(Progress):
    """Counts the progress that it is told."""

    total = done = 0

    def start(self, what: str, total: int, unit: str) -> None:
        self.total = total

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count


def test_progress_states_the_number_of_clips_decoded_at_once_within_the_settings(store: Store) -> None:
    notes: list[str] = []

    class Listens(Progress):
        def advance(self, count: int = 1, note: str = "") -> None:
            notes.append(note)

    context = context_for(store, decode_at_once=3)
    context.progress = Listens()
    put_together(generate.shard(config_of(), context, _asked(5)))
    assert notes
    assert all(re.fullmatch(r"decoding 3 sequences at once: \d\.\d MB of \d+\.\d [GM]B free", note) for note in notes)


def test_too_little_memory_is_reported_with_what_is_needed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda device: 100_000)
    with pytest.raises(StageFailed, match=r"expected \d\.\d MB of free memory to decode one sequence of \d+ steps"):
        generate_rows(store, [{}])


def test_a_stop_ends_the_work_within_a_step(store: Store) -> None:
    context = context_for(store)

    class StopsLater(threading.Event):
        asked = 0

        def is_set(self) -> bool:
            self.asked += 1
            return self.asked > 10

    context.stop = StopsLater()
    with pytest.raises(Stopped):
        put_together(generate.shard(config_of(), context, _asked(1)))
    assert context.stop.asked == 11


def test_a_row_is_yielded_before_the_others_are_done_and_closing_loses_only_unfinished_ones(
    store: Store,
) -> None:
    progress = Counts()
    context = context_for(store, decode_at_once=2)
    context.progress = progress
    rows = [{"seconds": 4.4, "takes": 2}, {"seconds": 1.2, "takes": 4}, {"melody": "track:" + "cd" * 32}]
    parts = generate.shard(config_of(), context, _asked_rows(rows))
    refused = next(parts)
    assert [reject.key for reject in refused.rejects] == [f"{2:016x}"]
    assert progress.done == 30  # those of the refused request, since nothing is decoded yet
    first = next(parts)
    assert [(row["request_id"], row["frames"]) for row in first.rows] == [(f"{0:016x}", 110)]
    # The clip in the other slot is as long, and no other is begun; a window's last frames come with its last step.
    assert progress.done <= 30 + 2 * 110
    done = progress.done
    parts.close()
    assert progress.done == done < progress.total == 30 + 2 * 110 + 4 * 30


def test_a_stop_keeps_complete_rows_equal_to_those_of_an_undisturbed_run(store: Store) -> None:
    rows = [{"seconds": seconds, "description": "slow jazz piano"} for seconds in (1.2, 1.2, 4.4, 0.4, 2.8)]
    asked = _asked_rows(rows)
    undisturbed = {row["request_id"]: row for row in put_together(_shard(store, asked)).rows}
    context = context_for(store, decode_at_once=2)
    kept: list[Mapping[str, Any]] = []

    def stop_at_the_third() -> None:
        for part in generate.shard(config_of(), context, asked):
            kept.extend(part.rows)
            if len(kept) == 3:
                context.stop.set()

    with pytest.raises(Stopped):
        stop_at_the_third()
    assert len(kept) == 3
    for row in kept:
        _assert_same_row(row, undisturbed[row["request_id"]])


def test_kept_takes_are_not_made_again_and_their_conditions_are_not_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    plain = ConditionReader.read

    def noted(reader: ConditionReader, request: dict) -> RequestConditions:
        read.append(request["request_id"])
        return plain(reader, request)

    monkeypatch.setattr(ConditionReader, "read", noted)
    asked = _asked_rows([{"takes": 3}, {"takes": 2}])
    whole = {(row["request_id"], row["take"]): row for row in put_together(_shard(store, asked)).rows}
    assert len(whole) == 5
    read.clear()
    one, two = f"{0:016x}", f"{1:016x}"
    kept = frozenset({(one, "1"), (one, "3"), (two, "1"), (two, "2"), ("elsewhere", "1")})
    made = put_together(_shard(store, asked, kept=kept)).rows
    assert [(row["request_id"], row["take"]) for row in made] == [(one, 2)]
    _assert_same_row(made[0], whole[one, 2])
    assert read == [one]


def test_a_broken_model_is_reported_as_broken(store: Store, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = Path(store.path("models/one/model.safetensors"))
    save_file({name: value * float("nan") for name, value in load_file(path).items()}, path)
    row = store.read(CHECKPOINTS, "c", ["one"]).to_pylist()[0] | {"digest": folder_digest(path.parent)}
    store.write_shard(CHECKPOINTS, "c", "one", pa.Table.from_pylist([row], schema=CHECKPOINTS.schema), "one")
    with pytest.raises(StageFailed, match="usable model in the checkpoint one"):
        generate_rows(store, [{}])


@pytest.mark.parametrize(
    ("form", "left"),
    [
        ("musicgen", {"separator": None, "clap": None, "vocabulary": None}),
        ("musicgen_melody", {"clap": None, "vocabulary": None}),
        ("text", {"separator": None, "clap": None, "vocabulary": None, "text_encoder": "google-t5/t5-base"}),
        ("melody", {"clap": None, "vocabulary": None, "text_encoder": "google-t5/t5-base"}),
        ("joint", {"separator": None}),
    ],
)
def test_a_checkpoint_from_elsewhere_depends_only_on_the_models_that_it_reads(
    store: Store, tmp_path: Path, form: str, left: dict
) -> None:
    if form.startswith("musicgen"):
        folder = tmp_path / "hf"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": form}))
    else:
        folder = written(tmp_path, form).folder
    config = Config(checkpoint=WeightsRef(str(folder)))
    found = generate.dependencies(config, WeightsLibrary(store).get)
    assert found.config == config.model_copy(update=left)
    assert found.consults == (TRACKS,)


def test_a_checkpoint_in_this_projects_form_depends_only_on_the_models_that_it_reads(
    store: Store, tmp_path: Path
) -> None:
    put_checkpoint(store, tmp_path, "words", model_config(chroma=None, fields={}), day=2)
    config = Config(checkpoint=WeightsRef(store.path("models/words")))
    found = generate.dependencies(config, WeightsLibrary(store).get)
    named = read_facts(Path(store.path("models/words"))).text_encoder
    assert found.config == config.model_copy(update={"separator": None, "text_encoder": named})


def test_a_checkpoint_of_the_store_depends_only_on_tables_and_weights_of_its_conditions(
    store: Store, tmp_path: Path
) -> None:
    named: dict[str, WeightsRef | None] = {"text_encoder": WeightsRef("encoder")}
    for config in (Config(), config_of(checkpoint="one")):
        found = generate.dependencies(config, WeightsLibrary(store).get)
        assert found == Dependencies(config.model_copy(update=named), generate.CONSULTS)
    put_checkpoint(store, tmp_path, "words", model_config(chroma=None, clap=None), day=2)
    config = config_of(checkpoint="words")
    unread = {"separator": None, "clap": None, "vocabulary": None}
    expected = Dependencies(config.model_copy(update=unread | named), (TRACKS, TOKENS))
    assert generate.dependencies(config, WeightsLibrary(store).get) == expected


def test_a_checkpoint_that_is_not_trained_yet_is_reported_as_such(tmp_path: Path) -> None:
    with pytest.raises(NotTrainedYet):
        generate.dependencies(Config(), WeightsLibrary(Store(str(tmp_path / "empty"))).get)


def test_a_folder_without_a_checkpoint_is_refused_before_anything_begins(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"expected a language model's checkpoint in {tmp_path}"):
        generate.dependencies(Config(checkpoint=WeightsRef(str(tmp_path))), WeightsLibrary(store).get)
