"""Adapters by request: the result of a fine-tuning, used by name and strength beside requests without it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.commands.finetune import recipe_of_tuning
from flows.commands.generate import recipe_of_checkpoint, stages_of_order
from flows.commands.options import parse_run_options
from flows.recipes.merging import merge
from flows.runs.running import Run, run_stages
from schemas import Store
from schemas.queries.database import query
from schemas.queries.descent import descent
from stages.audio.clip_tags import used_adapters
from tests.worlds.command_line import make_recordings
from tests.worlds.hugging_face_models import SHAPES, random_musicgen, save
from tests.worlds.open_gate import OPEN_GATE

DESCRIPTION = "calm piano at night"
OPTIMIZATION = {"steps": 3, "learning_rate": 0.05, "warmup_steps": 0, "precision": "float32"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which a fine-tuning named `noir` has run, and the model that it started from."""
    folder = tmp_path_factory.mktemp("tuned")
    save(random_musicgen(SHAPES["mono"]), SHAPES["mono"], folder / "model")
    make_recordings(folder / "music", 3, seconds=5.0)
    difference, stages = recipe_of_tuning(str(folder / "model"), Store(str(folder / "store")))
    difference = merge(difference, {"train": {"adapter": "noir", "batch_size": 2, "optimization": OPTIMIZATION}})
    settings = {"store": str(folder / "store"), "source": str(folder / "music"), "device": "cpu", "offline": True}
    parsed = parse_run_options(stages[:-1], "musicgen-small", settings, [], recipe_difference=difference)
    run_stages(Run(parsed.plan))
    return folder


def ordered(place: Path, store: str, *adapters: str, model: str = "model", **named: str) -> dict[str, np.ndarray]:
    """The most likely codes of the same description with different adapters, by the adapters asked for."""
    lines = [
        {"description": DESCRIPTION, "name": each or "none", "seconds": 1.0, "temperature": 0, "adapters": each}
        for each in adapters
    ]
    (place / "order.json").write_text(json.dumps(lines))
    reference = model if ":" in model else str(place / model)
    recipe = recipe_of_checkpoint(reference, Store(str(place / store)))
    recipe = merge(recipe, {"requests": {"adapters": named}})
    settings = {"store": str(place / store), "requests": str(place / "order.json"), "device": "cpu", "offline": True}
    settings["drop_requests"] = True
    opened = [f"{name}={value}" for name, value in OPEN_GATE.items()]
    parsed = parse_run_options(stages_of_order()[:4], "musicgen-small", settings, opened, recipe_difference=recipe)
    run_stages(Run(parsed.plan))
    rows = query(Store(str(place / store)), "SELECT name, codes FROM generations JOIN requests USING (request_id)")
    return {row["name"]: np.array(row["codes"]) for row in rows.to_pylist()}


def test_requests_with_different_adapters_in_one_batch_equal_requests_alone(place: Path) -> None:
    folder = str(next((place / "store" / "models").glob("*/adapter")))
    asked = ("", "noir:1", "noir:0.5, other:-2")
    together = ordered(place, "store", *asked, other=folder)
    assert len({codes.tobytes() for codes in together.values()}) == 3
    for number, each in enumerate(asked):
        alone = ordered(place, f"alone-{number}", each, noir=folder, other=folder)
        assert np.array_equal(alone[each or "none"], together[each or "none"])


def test_an_adapter_at_full_strength_equals_the_checkpoint_with_the_adapter_merged(place: Path) -> None:
    (row,) = query(Store(str(place / "store")), "SELECT checkpoint_id, adapter FROM checkpoints").to_pylist()
    assert row["adapter"] == "noir"
    updated = ordered(place, "store", f"{row['checkpoint_id']}:1", "noir:1")
    merged = ordered(place, "store", "", model=f"checkpoint:{row['checkpoint_id']}")
    assert all(np.array_equal(codes, merged["none"]) for codes in updated.values())


def test_an_unknown_adapter_is_refused_with_the_nearest_name(place: Path) -> None:
    with pytest.raises(Exception, match=r"expected one of .*noir, got 'nori' \(did you mean noir\?\)"):
        ordered(place, "store", "nori:1", "")


def test_a_clip_records_its_adapters_and_descends_from_their_training_recordings(place: Path) -> None:
    ordered(place, "store", "noir:0.5", "")
    store = Store(str(place / "store"))
    rows = query(store, "SELECT request_id, name, adapters FROM requests ORDER BY name").to_pylist()
    assert [used_adapters(row) for row in rows] == ["noir:0.5", ""]
    learned = query(
        store, "SELECT request_id, count(DISTINCT track_id) AS n FROM lineage WHERE how = 'learned' GROUP BY ALL"
    )
    assert learned.to_pylist() == [{"request_id": rows[0]["request_id"], "n": 2}]  # one of three is held out
    (track,) = query(store, "SELECT min(track_id) AS track FROM learned").column("track").to_pylist()
    assert rows[0]["request_id"] in descent(store, [track]).referred[track]
    assert rows[1]["request_id"] not in descent(store, [track]).referred[track]
    clips = query(
        store, f"SELECT DISTINCT request_id FROM descendants WHERE track_id = '{track}' AND request_id IS NOT NULL"
    )
    assert clips.column("request_id").to_pylist() == [rows[0]["request_id"]]


def test_another_strength_is_another_request_with_the_same_seed(place: Path) -> None:
    lines = [{"description": DESCRIPTION, "adapters": {"noir": strength}} for strength in (0.5, 0.6)]
    (place / "strengths.json").write_text(json.dumps(lines))
    settings = {"store": str(place / "store"), "requests": str(place / "strengths.json"), "drop_requests": True}
    run_stages(Run(parse_run_options(["requests"], "musicgen-small", settings, []).plan))
    rows: list[Any] = query(Store(str(place / "store")), "SELECT request_id, seed FROM requests").to_pylist()
    assert len({row["request_id"] for row in rows}) == 2
    assert len({row["seed"] for row in rows}) == 1
