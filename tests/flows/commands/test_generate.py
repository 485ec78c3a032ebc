"""`segue generate`: clips of a checkpoint that somebody else published, with only its folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from flows.cli import run_command
from flows.commands.generate import _cure, recipe_of_checkpoint, stages_of_order
from flows.commands.options import RunOptions, parse_run_options
from flows.runs.running import Run, run_stages
from schemas import Store
from schemas.identity import weights_in
from schemas.queries.database import query
from schemas.storage.versions import record_version
from schemas.tables import TOKENS, WEIGHTS
from schemas.weights import MissingWeights
from stages.checkpoints.facts import CodecFacts
from tests.worlds.audiocraft_files import written
from tests.worlds.generation_world import VERSIONS, filled_store, model_config, put_checkpoint
from tests.worlds.hugging_face_models import SHAPES, greedy_codes, random_musicgen, save
from tests.worlds.open_gate import OPEN_GATE
from tests.worlds.tiny_models import text_encoder
from tests.worlds.watermark_networks import tone_pair

DESCRIPTION = "calm piano at night"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A MusicGen in the form of Hugging Face's hub."""
    return save(random_musicgen(SHAPES["mono"]), SHAPES["mono"], tmp_path / "small")


def order(*words: str) -> int:
    return run_command(["generate", *words, "--set", "settings.device=cpu", "--set", "settings.offline=true"])


def made(store: Path, *stages: str, **difference: Any) -> list[dict[str, Any]]:
    """Run the stages of `segue generate`, and return its clips with their codes."""
    model, requests = difference.pop("model"), difference.pop("requests")
    recipe = recipe_of_checkpoint(model, Store(str(store)), difference.pop("text_encoder", None))
    settings = {"store": str(store), "requests": requests, "device": "cpu", "offline": True}
    opened = [f"{name}={value}" for name, value in OPEN_GATE.items()]  # an untrained model makes noise
    options = parse_run_options(list(stages), "musicgen-small", settings, opened, recipe_difference=recipe)
    run_stages(Run(options.plan))
    columns = "description, take, codes, clips.seconds, clips.path"
    joined = "clips JOIN generations USING (request_id, take) JOIN requests USING (request_id)"
    clips = query(Store(str(store)), f"SELECT {columns} FROM {joined} ORDER BY description, take")
    return list(clips.to_pylist())


def test_an_order_of_a_folder_makes_clips_scores_and_the_page_with_the_greedy_codes_of_transformers(
    folder: Path, tmp_path: Path
) -> None:
    line = {"description": DESCRIPTION, "seconds": 0.8, "temperature": 0, "guidance": 3}
    (tmp_path / "order.json").write_text(json.dumps([line]))
    place = tmp_path / "store"
    rows = made(place, *stages_of_order(), model=str(folder), requests=str(tmp_path / "order.json"))
    shape = SHAPES["mono"]
    expected = greedy_codes(random_musicgen(shape), shape, 20, [DESCRIPTION])[0]
    assert torch.equal(torch.tensor(np.array(rows[0]["codes"], dtype=np.int64)), expected)
    assert [(row["description"], row["seconds"]) for row in rows] == [(DESCRIPTION, 0.8)]
    assert (place / rows[0]["path"]).is_file()
    assert query(Store(str(place)), "SELECT count(*) AS n FROM scores").to_pylist() == [{"n": 1}]
    assert (place / "report" / "index.html").read_text().count("<audio controls") == 1


def test_an_audiocraft_folder_makes_clips_with_the_given_text_encoder(tmp_path: Path) -> None:
    checkpoint = written(tmp_path, "text").folder
    (tmp_path / "order.csv").write_text(f"description,seconds\n{DESCRIPTION},0.5\n")
    given = {"model": str(checkpoint), "text_encoder": str(text_encoder(tmp_path / "t5"))}
    rows = made(tmp_path / "store", "generate", "decode", requests=str(tmp_path / "order.csv"), **given)
    assert [(row["description"], row["seconds"]) for row in rows] == [(DESCRIPTION, 0.5)]


def test_an_order_in_a_store_that_has_tokens_needs_no_other_codec(folder: Path, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    store.write_shard(TOKENS, "v1", "0", pa.Table.from_pylist([], schema=TOKENS.schema), "k")
    (tmp_path / "order.csv").write_text(f"description,seconds\n{DESCRIPTION},0.5\n")
    given = {"model": str(folder), "requests": str(tmp_path / "order.csv")}
    rows = made(tmp_path / "store", *stages_of_order(), **given)
    assert [row["description"] for row in rows] == [DESCRIPTION]


def test_texts_are_added_to_those_ordered_before(folder: Path, tmp_path: Path, capfd: Any) -> None:
    place = tmp_path / "store"
    place.mkdir()
    for words in (["--text", DESCRIPTION, "--takes", "4"], ["--text", "loud drums", "--text", "fast bass"]):
        assert order(str(folder), *words, "--seconds", "1", "--store", str(place), "--dry-run") == 0
        assert not list(place.rglob("*.jsonl"))
    told = capfd.readouterr().err
    assert "order: 1 request, 4 clips" in told
    assert "order: 2 requests, 2 clips" in told
    (place / "order.jsonl").write_text(json.dumps({"description": DESCRIPTION, "takes": 4}) + "\n")
    assert order(str(folder), "--text", "loud drums", "--store", str(place), "--dry-run") == 0
    assert "order: 2 requests, 5 clips" in capfd.readouterr().err


def test_a_plan_describes_the_model_and_the_size_of_its_weights(folder: Path, tmp_path: Path, capfd: Any) -> None:
    assert order(str(folder), "--text", DESCRIPTION, "--store", str(tmp_path / "store"), "--dry-run") == 0
    told = capfd.readouterr().err
    assert f"model: {folder}, in Hugging Face's form, reads description" in told
    assert "kB as float32" in told
    assert not (tmp_path / "store" / "audio").exists()


def test_a_plan_lists_refused_lines_with_reasons_and_says_that_a_run_would_stop(
    folder: Path, tmp_path: Path, capfd: Any
) -> None:
    (tmp_path / "order.csv").write_text("text;duration\ncalm piano;1,5\nloud drums;-1\n")
    words = (str(folder), "--requests", str(tmp_path / "order.csv"), "--store", str(tmp_path / "store"), "--dry-run")
    assert order(*words) == 1
    told = capfd.readouterr().err
    assert "order: 1 request, 1 clip" in told
    assert "requests: refused 1 line:" in told
    assert "-1" in told.partition("refused 1 line:")[2]
    assert "a run would stop: requests:" in told
    assert order(*words, "--accept-refused", "1") == 0


def test_a_plan_refuses_a_codec_that_is_not_the_models(folder: Path, tmp_path: Path, capfd: Any) -> None:
    other = random_musicgen(SHAPES["mono"], seed=1).audio_encoder
    other.save_pretrained(tmp_path / "other")
    words = (str(folder), "--text", DESCRIPTION, "--store", str(tmp_path / "store"), "--dry-run")
    assert order(*words, "--set", f"decode.codec={tmp_path}/other") == 1
    assert f"uses, got decode.codec = {tmp_path}/other" in capfd.readouterr().err


@pytest.mark.parametrize("form", ["hub", "audiocraft"])
def test_missing_weights_are_reported_in_one_line_with_what_to_fetch_and_how_to_name_it(
    form: str, tmp_path: Path, capfd: Any
) -> None:
    model = "facebook/musicgen-small" if form == "hub" else str(written(tmp_path, "text").folder)
    cure = {
        "hub": "`hf download facebook/musicgen-small --local-dir ./musicgen-small`, copy the folder here and name it: "
        "segue generate ./musicgen-small",
        "audiocraft": "`hf download google-t5/t5-base --local-dir ./t5-base`, copy the folder here and name it: "
        "--text-encoder ./t5-base",
    }[form]
    assert order(model, "--text", DESCRIPTION, "--store", str(tmp_path / "store")) == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[1].endswith(cure), lines[1]


def test_a_missing_melody_model_is_reported_together_with_its_separator(tmp_path: Path, capfd: Any) -> None:
    words = ["facebook/musicgen-melody", "--text", DESCRIPTION, "--store", str(tmp_path / "store")]
    assert order(*words) == 1
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("segue: missing weights facebook/musicgen-melody, demucs:htdemucs"), last
    assert last.endswith("or go without a separator by --set generate.separator=null")
    assert order(*words, "--set", "generate.separator=null") == 1
    assert "demucs" not in capfd.readouterr().err


def test_a_missing_unknown_model_is_reported_with_the_weights_that_it_may_need(tmp_path: Path, capfd: Any) -> None:
    assert order("somebody/music-model", "--text", DESCRIPTION, "--store", str(tmp_path / "store")) == 1
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("segue: missing weights somebody/music-model (")
    besides = last.partition("Depending on its conditions it may also need ")[2]
    assert besides.startswith("demucs:htdemucs, lukewys/laion_clap/"), last
    assert "--set generate.separator=null" in besides
    assert "`hf download FacebookAI/roberta-base tokenizer.json --local-dir .`, copy the file here" in besides


@pytest.mark.parametrize(
    ("words", "told"),
    [([], "got neither"), (["--text", "x", "--requests", "order.csv"], "got --requests and --text")],
)
def test_an_order_is_either_text_or_a_file(words: list[str], told: str, capfd: Any) -> None:
    assert order("facebook/musicgen-small", *words) == 2
    assert told in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["smal", "--text", "x"], "got 'smal': there is no such folder (did you mean ./small?)"),
        (["./small", "--text", " "], "expected a description after --text, got none"),
        (["./small", "--text", "x", "--seconds", "400"], "expected --seconds of at most 300, got 400"),
    ],
)
def test_an_invalid_order_is_refused_in_one_line_and_orders_nothing(
    words: list[str], told: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(folder.parent)
    assert order(*words, "--store", str(tmp_path / "store")) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert told in lines[1]
    assert not list(tmp_path.glob("store/order*"))


def test_a_refused_order_is_not_kept_for_the_next_one(folder: Path, tmp_path: Path, capfd: Any) -> None:
    place = tmp_path / "store"
    assert order(str(folder), "--text", "x" * 3000, "--store", str(place)) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("segue: nothing was ordered: requests: refused 1 of 1 lines"), last
    assert not (place / "order.jsonl").exists()


def test_weights_missing_at_a_url_are_fetched_as_their_url_says() -> None:
    assert "hf download" not in _cure("s3://models/none", "generate.checkpoint", {})
    assert "`hf download someone/mono --local-dir ./mono`" in _cure("hf://someone/mono", "generate.checkpoint", {})


def test_decode_and_evaluate_name_only_the_weights_of_the_model(tmp_path: Path) -> None:
    difference = recipe_of_checkpoint("facebook/musicgen-small", Store(str(tmp_path)))
    options = parse_run_options(stages_of_order(), "musicgen-small", {}, [], recipe_difference=difference)
    named = {stage.name: weights_in(stage.config) for stage in options.plan.stages if stage.name in options.plan.names}
    assert {str(reference) for stage in ("decode", "evaluate") for reference in named[stage]} == {
        "facebook/musicgen-small"
    }


def test_the_watermark_stage_runs_only_for_marked_clips_with_a_detector(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[RunOptions] = []

    def run_without_prefect(options: RunOptions) -> int:
        runs.append(options)
        run_stages(Run(options.plan))
        return 0

    monkeypatch.setattr("flows.commands.generate.run_and_tell", run_without_prefect)
    generator, detector = tone_pair(tmp_path / "pair")
    store, opened = tmp_path / "store", [f"{name}={value}" for name, value in OPEN_GATE.items()]
    mark = [f"decode.watermark.generator={generator}", f"decode.watermark.detector={detector}"]
    sets = [word for knob in (*opened, *mark) for word in ("--set", knob)]
    assert order(str(folder), "--text", DESCRIPTION, "--seconds", "0.8", "--store", str(store), *sets) == 0
    heard = query(Store(str(store)), "SELECT form, found FROM detections").to_pylist()
    assert {"form": "written", "found": True} in heard
    monkeypatch.setattr("flows.commands.generate.run_and_tell", lambda options: runs.append(options) or 0)
    for unheard in ([], [*mark[:1], "decode.watermark.detector=null"]):
        knobs = [word for knob in unheard for word in ("--set", knob)]
        assert order(str(folder), "--text", DESCRIPTION, "--store", str(tmp_path / "unheard"), *knobs) == 0
    assert ["watermark" in options.plan.names for options in runs] == [True, False, False]


def test_an_order_is_exported_and_an_export_folder_in_use_is_refused_before_any_work(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    def run_without_prefect(options: RunOptions) -> int:
        run_stages(Run(options.plan))
        return 0

    monkeypatch.setattr("flows.commands.generate.run_and_tell", run_without_prefect)
    opened = [word for name, value in OPEN_GATE.items() for word in ("--set", f"{name}={value}")]
    words = (str(folder), "--text", DESCRIPTION, "--seconds", "0.8", *opened, "--store", str(tmp_path / "store"))
    assert order(*words, "--export", str(folder)) == 1
    assert f"got {folder} with " in capfd.readouterr().err
    assert not (tmp_path / "store").exists()
    assert order(*words, "--takes", "2", "--export", str(tmp_path / "clips")) == 0
    assert len(list((tmp_path / "clips" / "clips").glob("*.flac"))) == 2
    assert (tmp_path / "clips" / "catalog.csv").is_file()


def test_a_folder_named_by_one_word_is_not_taken_for_an_id(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert recipe_of_checkpoint("small", Store("nowhere"))["generate"] == {"checkpoint": "./small"}


def test_the_recipe_of_a_stored_model_names_what_made_its_codes_and_conditions(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    codec = CodecFacts(
        **{"reference": "checkpoint:abc", "identity": "0" * 64, "sample_rate": 8_000, "frame_rate": 25.0},
        **{"codebooks": 2, "cardinality": 16, "channels": 1},
    )
    put_checkpoint(store, tmp_path, "two", model_config(), day=2, codec=codec)
    for table, config in (("chroma", {"separator": None}), ("clap", {"model": {"weights": "d"}, "vocabulary": None})):
        record_version(store, VERSIONS[table], table, 1, json.dumps(config), {})
    row = {"reference": "org/clap", "digest": "d", "revision": "", "stamp": "", "bytes": 1}
    store.write_shard(WEIGHTS, "1", "d", pa.Table.from_pylist([row], schema=WEIGHTS.schema), "d")
    assert recipe_of_checkpoint("checkpoint:language_model", store) == {
        "generate": {"checkpoint": "two"},
        "tokenize": {"codec": "checkpoint:abc"},
        "chroma": {"separator": None},
        "clap": {"model": "org/clap", "vocabulary": None},
    }
    with pytest.raises(MissingWeights, match="expected a trained checkpoint 'three'"):
        recipe_of_checkpoint("checkpoint:three", store)
