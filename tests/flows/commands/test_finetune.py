"""`segue finetune`: a model from elsewhere is fine-tuned on a small collection, with only its folder."""

import signal
import subprocess
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from flows.cli import run_command
from flows.commands.finetune import data_lines, recipe_of_tuning
from flows.commands.options import parse_run_options
from flows.runs.running import Run, run_stages
from schemas import Store, WeightsRef
from schemas.identity import weights_in
from schemas.queries.database import query
from schemas.tables import TRACKS
from schemas.weights import WeightsLibrary
from stages.checkpoints.loading import describe_model, load_checkpoint
from stages.pipeline.contract import Progress
from stages.pipeline.runner import StageFailed
from tests.worlds.audiocraft_files import written
from tests.worlds.command_line import make_recordings, segue
from tests.worlds.hugging_face_models import SHAPES, random_musicgen, save
from tests.worlds.patience import PATIENCE_SECONDS
from tests.worlds.tiny_models import text_encoder

SMALL = ["train.optimization.steps=4", "train.batch_size=2", "train.optimization.precision=float32"]


def tuned(place: Path, model: str, *overrides: str, **options: Any) -> list[str]:
    """Run the stages of `segue finetune`, and return their names."""
    difference, stages = recipe_of_tuning(model, Store(str(place / "store")), options.pop("text_encoder", None))
    settings = {"store": str(place / "store"), "source": str(place / "music"), "device": "cpu", "offline": True}
    parsed = parse_run_options(stages, "musicgen-small", settings, overrides, recipe_difference=difference)
    run_stages(Run(parsed.plan))
    return list(parsed.plan.names)


@pytest.mark.parametrize("name", ["mono", "stereo", "melody"])
def test_a_hugging_face_folder_is_described_without_loading_its_weights(name: str, tmp_path: Path) -> None:
    folder = save(random_musicgen(SHAPES[name]), SHAPES[name], tmp_path / "model")
    described = describe_model(folder, WeightsLibrary(Store(str(tmp_path))).get)
    facts = load_checkpoint(folder, WeightsLibrary(Store(str(tmp_path))).get).facts
    assert facts.codec is not None
    assert described.model.language_model == facts.model.language_model
    assert described.model.conditions == facts.model.conditions
    assert (described.segment_seconds, described.channels) == (facts.segment_seconds, facts.codec.channels)


def test_an_audiocraft_folder_is_described_without_loading_its_weights(tmp_path: Path) -> None:
    folder, encoder = written(tmp_path, "stereo").folder, WeightsRef(str(text_encoder(tmp_path / "t5")))
    weights = WeightsLibrary(Store(str(tmp_path))).get
    described, facts = describe_model(folder, weights, encoder), load_checkpoint(folder, weights, "cpu", encoder).facts
    assert described.model == facts.model
    assert (described.segment_seconds, described.channels) == (facts.segment_seconds, 2)


def test_a_fine_tuning_names_only_the_weights_of_the_model_and_of_its_conditions(tmp_path: Path) -> None:
    for shape, conditions in (("mono", set()), ("melody", {"chroma"})):
        folder = str(save(random_musicgen(SHAPES[shape]), SHAPES[shape], tmp_path / shape))
        difference, stages = recipe_of_tuning(folder, Store(str(tmp_path / "store")))
        assert set(stages) == {"ingest", "tokenize", "train", "report"} | conditions
        settings = {"source": str(tmp_path)}
        options = parse_run_options(stages, "musicgen-small", settings, [], recipe_difference=difference)
        named = weights_in([stage.config for stage in options.plan.stages if stage.name in stages])
        assert {str(reference) for reference in named} == {folder} | ({"demucs:htdemucs"} if conditions else set())


def test_the_plan_describes_the_training_data_only_of_the_given_recordings(tmp_path: Path) -> None:
    folder = str(save(random_musicgen(SHAPES["mono"]), SHAPES["mono"], tmp_path / "model"))
    difference, stages = recipe_of_tuning(folder, Store(str(tmp_path / "store")))
    settings = {"source": str(tmp_path), "store": str(tmp_path / "store")}
    options = parse_run_options(stages, "musicgen-small", settings, [], recipe_difference=difference)
    pipeline = options.plan.pipeline()
    unread = ["data: known once the recordings are ingested"]
    assert list(data_lines(pipeline)) == unread
    row = {"track_id": "a", "split": "train", "seconds": 3600.0}
    rows = pa.Table.from_pylist([row], schema=TRACKS.schema)
    pipeline.store.write_shard(TRACKS, "of-another-recipe", "0", rows, "k")
    assert list(data_lines(pipeline)) == unread
    pipeline.store.write_shard(TRACKS, pipeline.context("ingest", run_id="plan").fingerprint, "0", rows, "k")
    assert "1 track (1 h) in train" in next(data_lines(pipeline))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with music, a model, and the store of a fine-tuning; no test changes it."""
    folder, shape = tmp_path_factory.mktemp("tuned"), SHAPES["mono"]
    save(random_musicgen(shape), shape, folder / "model")
    make_recordings(folder / "music", 4, seconds=5.0)
    heard = ['train.samples.texts=["calm piano"]', "train.samples.seconds=1", "train.samples.every=2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        assert tuned(folder, str(folder / "model"), *SMALL, *heard) == ["ingest", "tokenize", "train", "report"]
    return folder


def test_a_folder_of_music_and_a_checkpoint_give_an_adapter_and_a_page_with_samples(place: Path) -> None:
    rows = query(Store(str(place / "store")), "SELECT path, steps, rows_seen FROM checkpoints").to_pylist()
    assert [(row["steps"], row["rows_seen"]) for row in rows] == [(4, 3)]  # one of four is held out
    names = {file.name for file in (place / "store" / rows[0]["path"] / "adapter").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}
    made = query(Store(str(place / "store")), "SELECT step, seconds, path FROM samples ORDER BY step").to_pylist()
    assert [(row["step"], row["seconds"]) for row in made] == [(0, 1.0), (2, 1.0), (4, 1.0)]
    page = (place / "store" / "report" / "index.html").read_text()
    assert all((place / "store" / row["path"]).is_file() and row["path"] in page for row in made)
    assert page.count("<audio controls") == 3


def test_the_adapter_of_a_store_is_exported_for_peft_and_other_models_are_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (row,) = query(Store(str(place / "store")), "SELECT checkpoint_id, path FROM checkpoints").to_pylist()
    export = ["--to", "peft", "--store", str(place / "store")]
    assert run_command(["convert", f"checkpoint:{row['checkpoint_id']}", str(tmp_path / "updates"), *export]) == 0
    assert "parameters, for the MusicGen of transformers that training started from" in capsys.readouterr().out
    assert (tmp_path / "updates" / "adapter_model.safetensors").is_file()
    assert str(place) not in (tmp_path / "updates" / "adapter_config.json").read_text()
    assert run_command(["convert", str(place / "model"), str(tmp_path / "none"), *export]) == 2
    assert "expected checkpoint:ID of a store, trained as low-rank updates alone" in capsys.readouterr().err


class DiesAt(Progress):
    """Fails a run after a number of training steps."""

    def __init__(self, step: int) -> None:
        self.left = step

    def advance(self, count: int = 1, note: str = "") -> None:
        self.left -= note.startswith("loss")
        if self.left == 0:
            raise RuntimeError("the machine is gone")


def test_a_fine_tuning_that_fails_and_resumes_gives_what_an_undisturbed_one_gives(tmp_path: Path) -> None:
    shape = SHAPES["mono"]
    save(random_musicgen(shape), shape, tmp_path / "model")
    make_recordings(tmp_path / "music", 3, seconds=3.0)
    knobs = ["train.batch_size=2", "train.optimization.precision=float32", "train.optimization.steps=6"]
    knobs += ["train.early_stop.every=2", "train.save_every=2", "train.samples.every=3", "train.samples.seconds=0.5"]
    kept = []
    for name, progress in (("disturbed", DiesAt(5)), ("undisturbed", Progress())):
        difference, stages = recipe_of_tuning(str(tmp_path / "model"), Store(str(tmp_path / name)))
        settings = {"store": str(tmp_path / name), "source": str(tmp_path / "music"), "device": "cpu", "offline": True}
        plan = parse_run_options(stages[:-1], "musicgen-small", settings, knobs, recipe_difference=difference).plan
        with pytest.raises(StageFailed, match="gone") if name == "disturbed" else nullcontext():
            run_stages(Run(plan, progress=progress))
        run_stages(Run(plan))
        store = Store(str(tmp_path / name))
        (path,) = query(store, "SELECT path FROM checkpoints").column("path").to_pylist()
        updates = load_file(tmp_path / name / path / "adapter" / "adapter_model.safetensors")
        losses = query(store, "SELECT step, split, loss FROM training ORDER BY ALL").to_pylist()
        heard = query(store, "SELECT step, number, description, sha256 FROM samples ORDER BY ALL").to_pylist()
        kept.append((updates, losses, heard))
    (updates, losses, heard), (others, their_losses, their_samples) = kept
    assert {row["step"] for row in heard} >= {0, 3, 6}
    assert (losses, heard) == (their_losses, their_samples)
    assert updates.keys() == others.keys()
    assert all(torch.equal(value, others[key]) for key, value in updates.items())


@pytest.mark.slow
def test_a_model_sharded_over_two_processes_makes_the_same_samples_as_a_whole_one(tmp_path: Path) -> None:
    shape = SHAPES["mono"]
    save(random_musicgen(shape), shape, tmp_path / "model")
    make_recordings(tmp_path / "music", 3, seconds=3.0)
    knobs = ["train.batch_size=2", "train.micro_batch_size=1", "train.optimization.precision=float32"]
    knobs += ["train.optimization.steps=4", "train.samples.every=2", "train.samples.seconds=0.5"]
    heard = []
    for name, shares in (("whole", {"processes": 1}), ("parts", {"processes": 2, "parallel": "fully_sharded"})):
        difference, stages = recipe_of_tuning(str(tmp_path / "model"), Store(str(tmp_path / name)))
        settings = {"store": str(tmp_path / name), "source": str(tmp_path / "music"), "device": "cpu", "offline": True}
        plan = parse_run_options(
            stages[:-1], "musicgen-small", settings | shares, knobs, recipe_difference=difference
        ).plan
        run_stages(Run(plan))
        rows = query(Store(str(tmp_path / name)), "SELECT step, number, sha256 FROM samples ORDER BY ALL").to_pylist()
        heard.append({(row["step"], row["number"]): row["sha256"] for row in rows})
    whole, parts = heard
    assert whole.keys() == parts.keys()
    assert {step for step, _ in whole} == {0, 2, 4}
    before = [place for place in whole if place[0] == 0]
    assert [parts[place] for place in before] == [whole[place] for place in before]  # of equal weights


@pytest.mark.slow
def test_an_audiocraft_folder_is_fine_tuned_with_the_given_text_encoder(tmp_path: Path) -> None:
    folder = written(tmp_path, "text").folder
    make_recordings(tmp_path / "music", 3, seconds=5.0)
    encoder = str(text_encoder(tmp_path / "t5"))
    assert "train" in tuned(tmp_path, str(folder), *SMALL, text_encoder=encoder)


def test_missing_weights_are_reported_in_one_line_with_what_to_fetch_and_how_to_name_it(
    tmp_path: Path, capfd: Any
) -> None:
    make_recordings(tmp_path / "music", 1)
    words = ["--source", str(tmp_path / "music"), "--store", str(tmp_path / "store")]
    assert run_command(["finetune", "facebook/musicgen-small", *words, "--set", "settings.offline=true"]) == 1
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.endswith("copy the folder here and name it: segue finetune ./musicgen-small"), last


def test_a_missing_melody_model_is_reported_together_with_its_separator(tmp_path: Path, capfd: Any) -> None:
    words = ["--source", str(tmp_path), "--store", str(tmp_path / "store"), "--set", "settings.offline=true"]
    assert run_command(["finetune", "facebook/musicgen-melody", *words]) == 1
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("segue: missing weights facebook/musicgen-melody, demucs:htdemucs"), last
    assert "name it: segue finetune ./musicgen-melody; " in last
    assert last.endswith("or go without a separator by --set chroma.separator=null")


def test_a_fine_tuning_without_source_is_refused(capfd: Any) -> None:
    assert run_command(["finetune", "facebook/musicgen-small"]) == 2
    assert "expected recordings to learn from, --source FOLDER" in capfd.readouterr().err


def test_a_source_folder_that_does_not_exist_is_reported_by_a_dry_run(tmp_path: Path, capfd: Any) -> None:
    shape = SHAPES["mono"]
    model = save(random_musicgen(shape), shape, tmp_path / "model")
    words = ["--source", str(tmp_path / "nowhere"), "--store", str(tmp_path / "store"), "--dry-run"]
    assert run_command(["finetune", str(model), *words]) == 1
    assert f"got '{tmp_path}/nowhere', which does not exist" in capfd.readouterr().err


def started(store: Path, process: "subprocess.Popen[str]") -> None:
    """Wait until a training has saved its state for the first time."""
    for line in process.stderr or ():
        if "training: " in line and "steps" in line:
            break
    while not list(store.glob("scratch/**/state.safetensors")) and process.poll() is None:
        time.sleep(0.05)


@pytest.mark.slow
def test_a_killed_and_interrupted_command_gives_what_an_undisturbed_one_gives_and_lowers_the_loss(
    server: Any, corpus: Path, tmp_path: Path
) -> None:
    shape = SHAPES["mono"]
    model = save(random_musicgen(shape), shape, tmp_path / "model")
    words = ["finetune", str(model), "--source", str(corpus), "--steps", "300", "--name", "small"]
    for knob in ("batch_size=4", "save_every=5", "early_stop.every=25", "samples.every=50", "samples.seconds=2"):
        words += ["--set", f"train.{knob}"]
    words += ["--set", "train.optimization.learning_rate=2e-3", "--set", "settings.device=cpu"]
    kept = {}
    for name, ends in (("disturbed", (signal.SIGKILL, signal.SIGINT)), ("undisturbed", ())):
        store = tmp_path / name
        for end in ends:
            process = segue(*words, "--store", str(store), environment=server.environment)
            started(store, process)
            process.send_signal(end)
            _, errors = process.communicate(timeout=PATIENCE_SECONDS)
            assert process.returncode == (-end if end == signal.SIGKILL else 130), errors
        _, errors = segue(*words, "--store", str(store), environment=server.environment).communicate(timeout=600)
        assert "call them `small:1`" in errors, errors
        assert "data: " in errors.split("tokenize: ")[0]
        (row,) = query(Store(str(store)), "SELECT path, adapter, metrics FROM checkpoints").to_pylist()
        metrics = dict(row["metrics"])
        assert metrics["valid_cross_entropy"] < metrics["valid_cross_entropy_initial"]
        samples = query(Store(str(store)), "SELECT step, number, sha256 FROM samples ORDER BY ALL").to_pylist()
        assert {row["step"] for row in samples} >= {0, 50}
        kept[name] = (load_file(store / row["path"] / "adapter" / "adapter_model.safetensors"), samples)
    (weights, samples), (others, theirs) = kept["disturbed"], kept["undisturbed"]
    assert samples == theirs
    assert weights.keys() == others.keys()
    assert all(torch.equal(value, others[key]) for key, value in weights.items())
