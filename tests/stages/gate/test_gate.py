"""The gate: a take that fails is made again with the next seed, and one that never passes keeps its reasons."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from schemas.queries.database import query
from schemas.storage.drafts import Drafts
from schemas.storage.publications import Publications
from schemas.tables import GENERATIONS, REQUESTS, VERDICTS
from stages import decode, gate
from stages.audio.marks import read_own_tags
from stages.checkpoints.generation_config import take_seed
from stages.pipeline.contract import Stopped
from stages.pipeline.plans import ConfiguredStage
from stages.pipeline.runner import run_stage
from tests.worlds.gate_world import GateWorld, codes_of
from tests.worlds.generation_world import DEFAULTS

ASKED: list[dict[str, Any]] = [{"takes": 3}, {"seed": 9, "takes": 2, "seconds": 1.6}, {"temperature": 0.0}]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> GateWorld:
    return GateWorld(tmp_path_factory.mktemp("gate"), ASKED)


def half_fail(world: GateWorld, retakes: int = 2) -> gate.Config:
    """A gate that fails about half of the first tries."""
    return world.config(retakes, true_peak=float(np.median(list(world.measured("true_peak").values()))))


def test_a_first_try_that_passes_is_kept(world: GateWorld) -> None:
    rows = world.verdicts(world.config(), "lenient")
    assert rows.keys() == world.generations.keys()
    for key, row in rows.items():
        assert (row["passed"], row["retake"], row["reasons"], row["codes"]) == (True, 0, [], None)
        assert row["seed"] == world.generations[key]["seed"]
        assert len(row["tries"]) == 1


def test_a_failed_take_is_made_again_with_the_next_seeds_until_it_passes(world: GateWorld) -> None:
    config = half_fail(world)
    rows = world.verdicts(config, "half")
    limit = config.limits.true_peak
    assert limit is not None
    again = [row for row in rows.values() if len(row["tries"]) > 1]
    assert again
    assert len(again) < len(rows)
    for (request, take), row in rows.items():
        seed = DEFAULTS["seed"] if request != f"{1:016x}" else 9
        peaks = [each["true_peak"] for each in row["tries"]]
        assert [each["seed"] for each in row["tries"]] == [take_seed(seed, take, n) for n in range(len(peaks))]
        assert [each["passed"] for each in row["tries"]] == [peak <= limit for peak in peaks]
        assert all(peak > limit for peak in peaks[:-1])  # no try follows one that passed
        assert row["passed"] == (peaks[-1] <= limit)
        assert row["passed"] or len(peaks) == (1 if request == f"{2:016x}" else 3)
        chosen = row["tries"][row["retake"]]
        assert (row["seed"], row["reasons"]) == (chosen["seed"], chosen["reasons"])
        assert (row["codes"] is None) == (row["retake"] == 0)


def test_a_retake_equals_the_take_that_generate_makes_with_its_seed(world: GateWorld, tmp_path: Path) -> None:
    rows = world.verdicts(half_fail(world), "half")
    (key, row) = next((key, row) for key, row in rows.items() if row["retake"])
    asked = next(request for number, request in enumerate(ASKED) if f"{number:016x}" == key[0])
    alone = GateWorld(tmp_path, [asked | {"seed": row["seed"], "takes": 1}])
    assert np.array_equal(codes_of(row), codes_of(alone.generations[f"{0:016x}", 1]))


def test_seeds_of_takes_and_retakes_are_all_different() -> None:
    seeds = [take_seed(7, take, retake) for take in range(1, 21) for retake in range(20)]
    assert len(set(seeds)) == len(seeds)


def test_a_verdict_does_not_depend_on_the_other_takes(world: GateWorld, tmp_path: Path) -> None:
    config = half_fail(world)
    together = world.verdicts(config, "half")
    alone = GateWorld(tmp_path, ASKED[:1])
    one = alone.verdicts(config.model_copy(update={"codec": alone.config().codec}), "one")
    for key, row in one.items():
        assert row == together[key]


def test_a_take_without_randomness_is_not_made_again(world: GateWorld) -> None:
    row = world.verdicts(world.config(true_peak=-20.0), "strict")[f"{2:016x}", 1]
    assert (row["passed"], len(row["tries"])) == (False, 1)


def test_a_take_that_never_passes_keeps_the_try_with_the_fewest_reasons(world: GateWorld) -> None:
    config = world.config(retakes=2, true_peak=-20.0, dc=float(np.median(list(world.measured("dc").values()))))
    for row in world.verdicts(config, "never").values():
        counts = [len(each["reasons"]) for each in row["tries"]]
        assert not row["passed"]
        assert row["retake"] == counts.index(min(counts))
        assert row["reasons"][0].startswith("true_peak: expected at most a true peak of -20.0 dBTP, got ")


def test_a_stopped_gate_continues_and_ends_with_the_same_verdicts(world: GateWorld) -> None:
    config = half_fail(world)
    whole, context = world.verdicts(config, "half"), world.context("stopped")
    parts = gate.shard(
        config, context, world.store.read(GENERATIONS, "g", ["0"]), world.store.read(REQUESTS, "r", ["0"])
    )
    kept = [row for _ in range(2) for row in next(parts).rows]
    context.stop.set()
    with pytest.raises(Stopped):
        list(parts)
    drafts = Drafts(world.store, VERDICTS, "stopped")
    drafts.write_part("0", pa.Table.from_pylist([dict(row) for row in kept], schema=VERDICTS.schema))
    made = run_stage(ConfiguredStage("gate", gate, config), world.context("stopped"))
    assert (made.counts.reused, made.counts.made) == (2, len(whole) - 2)
    assert world.store.read(VERDICTS, "stopped").to_pylist() == list(whole.values())


def test_clips_are_made_of_the_chosen_tries_and_the_views_separate_passed_and_quarantined(world: GateWorld) -> None:
    rows = world.verdicts(half_fail(world, retakes=1), "shown")
    versions = {"verdicts": "shown", "generations": "g", "requests": "r"}
    context = replace(world.context("d"), stage="decode", versions=versions)
    run_stage(ConfiguredStage("decode", decode, decode.Config.model_validate({"codec": str(world.codec)})), context)
    passed = {key for key, row in rows.items() if row["passed"]}
    assert passed < rows.keys()
    assert any(rows[key]["retake"] for key in passed)
    clips = query(world.store, "SELECT request_id, take, seed, retake, path FROM clips").to_pylist()
    assert {(row["request_id"], row["take"]) for row in clips} == passed
    for clip in clips:
        row = rows[clip["request_id"], clip["take"]]
        assert (clip["seed"], clip["retake"]) == (row["seed"], row["retake"])
        assert read_own_tags(io.BytesIO(world.store.read_bytes(clip["path"])))["seed"] == str(row["seed"])
    quarantined = query(world.store, "SELECT request_id, take, stage, reasons, path FROM quarantine").to_pylist()
    assert {(row["request_id"], row["take"]) for row in quarantined} == rows.keys() - passed
    for row in quarantined:
        assert (row["stage"], row["reasons"]) == ("gate", rows[row["request_id"], row["take"]]["reasons"])
        assert world.store.exists(row["path"])  # so that it can be listened to


def test_the_view_of_tries_has_one_row_per_try(world: GateWorld) -> None:
    rows = world.verdicts(half_fail(world), "half")
    drafts = Drafts(world.store, VERDICTS, "half")
    Publications(world.store).publish("run", "gate", {VERDICTS.name: ("half", drafts.manifest())})
    tries = query(world.store, "SELECT request_id, take, retake, chosen, passed, true_peak FROM tries").to_pylist()
    assert len(tries) == sum(len(row["tries"]) for row in rows.values())
    assert sum(row["chosen"] for row in tries) == len(rows)


def test_first_tries_that_pass_need_no_language_model(world: GateWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.checkpoints import loading

    monkeypatch.setattr(loading, "load_checkpoint", lambda *_: pytest.fail("nothing is to be made again"))
    assert len(world.verdicts(world.config(), "unloaded")) == len(world.generations)


def test_the_gate_depends_on_the_generating_model_only_if_it_makes_retakes(world: GateWorld) -> None:
    context = world.context()
    never = gate.dependencies(world.config(retakes=0), context.weights)
    assert (never.config.generation.checkpoint, never.consults) == (None, ())
    again = gate.dependencies(world.config(retakes=1), context.weights)
    assert again.config.generation.checkpoint is not None
    assert [table.name for table in again.consults] == ["tracks", "chroma", "clap", "tokens"]
