"""The command line's contract: names, exit codes, and one line for every mistake of a user."""

import json
import os
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from flows.cli import PLANNING, run_command
from flows.commands.foreground import STARTING
from flows.commands.options import parse_run_options
from flows.runs.running import Run, run_stages
from schemas import Store
from schemas.storage.leases import hold_lease
from stages.audio import SourceType, encode_audio
from tests.worlds.command_line import ROOT, complaints, make_recordings, segue
from tests.worlds.patience import PATIENCE_SECONDS


@pytest.fixture
def recordings(tmp_path):
    return make_recordings(tmp_path / "recordings", 3)


SLOW = ("pyarrow", "numpy", "fsspec", "flows.recipes.recipe", "prefect", "torch")
HEAVY = (
    *("torch", "transformers", "demucs", "prefect", "duckdb", "pandas", "scipy", "matplotlib", "librosa"),
    *("pyarrow.dataset", "pyarrow.acero", "huggingface_hub", "dask", "ray"),
)


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        (["run", "--preset", "huge"], ["unknown preset 'huge'", "miniature", "musicgen-melody"]),
        (["run", "sing"], ["unknown stage 'sing'", "ingest", "report"]),
        (["plan", "--set", "trian.steps=3"], ["unknown stage 'trian'", "settings", "train_codec"]),
        (["plan", "--set", "decode.fromat=ogg"], ["unknown field decode.fromat", "format", "loudness"]),
        (["plan", "--set", "decode.format=midi"], ["decode.format", "'flac'", "'midi'"]),
        (["run", "--set", "settings.device=tpu"], ["settings.device", "'cpu' or 'cuda'", "'tpu'"]),
        (["run", "--set", "settings.concurrency=0"], ["settings.concurrency", "greater than or equal to 1"]),
        (["run", "--set", "decode"], ["stage.field=value"]),
        (["run", "train_codec", "--preset", "musicgen-small"], ["is not part of the preset"]),
        (["run", "--preset", "musicgen-small"], ["expected --source"]),
        (["sql", "SELECT 1", "--format", "xml"], ["--format", "csv"]),
        (["sql", "SELECT 1", "--store", "/nowhere/at/all"], ["expected a store", "/nowhere/at/all"]),
        (["sql", "SELECT 1", "--store", "s4://bucket"], ["s4://bucket", "Protocol not known"]),
        (["run", "--store", "s4://bucket"], ["s4://bucket", "Protocol not known"]),
        (["sing"], ["sing"]),
        (["train"], ["train is a stage", "segue run train"]),
        (["run", "--only", "train"], ["no such option: --only", "segue run train"]),
        (["run", "--loud"], ["--loud"]),
        (
            ["generate", "mono", "calm", "piano"],
            ["unexpected argument 'calm piano'", '--text "calm piano"', "--requests FILE"],
        ),
        (["generate", "mono", "order.csv"], ["unexpected argument 'order.csv'", "--requests order.csv"]),
        (["finetune", "mono", "./music"], ["unexpected argument './music'", "--source ./music"]),
        (["sql", "SELECT", "1"], ["unexpected argument '1'", "between quotes"]),
        (["init", "--preset", "minature"], ["unknown preset 'minature' (did you mean miniature?)", "study"]),
        (["init", "--file", "no/such/place.yaml"], ["expected to write no/such/place.yaml", "--file"]),
        (["pattern", "delay", "--svg", "no/such/place.svg"], ["expected to write no/such/place.svg", "--svg"]),
        (["verify", "gone.flac"], ["expected a sound", "got nothing at gone.flac"]),
        (["export", "out", "there"], ["unexpected argument 'there'", "segue export --help"]),
    ],
)
def test_a_mistake_is_one_line_that_names_what_is_allowed_and_exit_code_2(words, allowed, capfd):
    assert run_command(words) == 2
    lines = complaints(capfd.readouterr().err)
    assert len(lines) == 1, lines
    assert all(word in lines[0] for word in allowed), lines[0]


@pytest.mark.parametrize(
    "words",
    [
        *(["status"], ["check"], ["clean"], ["show", "clips"], ["sql", "SELECT 1"], ["publish"], ["rollback"]),
        *(["diff", "clips"], ["page"], ["export", "out"], ["explain", "clip", "calm"], ["take-down", "abcdef"]),
        ["convert", "checkpoint:language_model", "out", "--to", "hf"],
    ],
    ids=" ".join,
)
def test_a_path_that_is_not_a_store_is_reported_and_left_unchanged(words, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("notes")
    (tmp_path / "empty").mkdir()
    (tmp_path / "project" / "src").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    for name, got in (("file", "the file"), ("empty", "an empty folder"), ("project", "a folder with other content")):
        assert run_command([*words, "--store", name]) == 2
        assert f"got {got}" in capfd.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_plan_and_a_run_refuse_a_file_as_a_store(recordings, tmp_path, capfd):
    (tmp_path / "file").write_text("notes")
    for command in ("plan", "run"):
        assert run_command([command, "--source", str(recordings), "--store", str(tmp_path / "file")]) == 2
        assert "expected a folder or URL as the store, got the file" in capfd.readouterr().err


def test_presets_are_listed_with_their_differences(capfd):
    assert run_command(["presets"]) == 0
    out = capfd.readouterr().out
    assert "musicgen-large: " in out
    assert "    train.model.language_model.width=2048" in out


def test_the_command_line_can_be_run_as_a_module():
    program = [sys.executable, "-m", "flows.cli", "schema", "no_table"]
    ended = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "unknown table 'no_table'" in ended.stderr


def test_help_names_every_command(capfd):
    assert run_command(["--help"]) == 0
    out = capfd.readouterr().out
    assert all(name in out for name in ("run", "plan", "sql", "presets", "convert"))


def test_help_does_not_truncate_sentences(capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert run_command(["--help"]) == 0
    out = capfd.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    words = " ".join(out.partition("Commands:")[2].split())
    assert "..." not in words
    assert "plan Show what a run would make, reuse and drop, without computing anything." in words
    assert "verify Show what files claim about how they were made, and whether that is true." in words


@pytest.mark.parametrize("command", ["run", "export", "generate"])
def test_help_does_not_break_lines_at_hyphens(command, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert run_command([command, "--help"]) == 0
    lines = [line.rstrip() for line in capfd.readouterr().out.splitlines()]
    assert not [line for line in lines if line.endswith("-") or len(line) > 80]
    assert any(line.endswith(" segue-store.") for line in lines)


@pytest.mark.parametrize(("columns", "widest"), [(100, 100), (120, 120), (250, 120)])
@pytest.mark.parametrize("command", [[], ["run"]])
def test_help_is_as_wide_as_the_terminal_up_to_120_columns(command, columns, widest, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert run_command([*command, "--help"]) == 0
    assert widest - 20 < max(map(len, capfd.readouterr().out.splitlines())) <= widest


def test_a_plan_shows_what_would_be_made_and_writes_nothing(recordings, tmp_path, capfd):
    store = tmp_path / "store"
    assert run_command(["plan", "ingest", "--source", str(recordings), "--store", str(store)]) == 0
    out = capfd.readouterr().out.splitlines()
    assert out[0].split()[:5] == ["stage", "shards", "make", "reuse", "drop"]
    assert out[1].split()[:4] == ["ingest", "1", "3", "0"]
    assert not store.exists()


def test_the_whole_miniature_is_planned_from_an_empty_store(tmp_path, capfd):
    assert run_command(["plan", "--store", str(tmp_path / "store")]) == 0
    lines = {line.split()[0]: line for line in capfd.readouterr().out.splitlines()}
    assert "after demo" in lines["ingest"]
    assert lines.pop("order:").startswith("order: 8 requests, 8 clips, ")
    assert "frames unknown" in lines["to"]
    assert lines.pop("to").endswith("; time and bytes unknown: no run of this store has made clips yet")
    assert all(int(line.split()[1]) >= 1 for name, line in lines.items() if name != "stage")


@pytest.fixture(scope="module")
def settled(tmp_path_factory):
    """Words of a command line by name: for a store with ingested recordings, for an ingest with nothing left to do, and
    for a clip."""
    folder = tmp_path_factory.mktemp("settled")
    source, store = str(make_recordings(folder / "recordings", 3)), str(folder / "store")
    options = {"source": source, "store": store, "workers": 1}
    run_stages(Run(parse_run_options(["ingest"], "miniature", options, []).plan))
    clip = folder / "clip.mp3"
    clip.write_bytes(encode_audio(np.zeros((1, 16_000), np.float32), 16_000, "mp3", source=SourceType.TRAINED))
    words = {"store": f"--store {store}", "ingest": f"ingest --source {source} --store {store}"}
    return words | {"clip": str(clip)}


OF_RUNS = ("stages.pipeline.runner", "rich.progress", "http.server", "pyarrow.compute")
"""Modules that runs and pages need, and a query does not."""


@pytest.mark.parametrize(
    ("command", "absent"),
    [
        ("--help", (*HEAVY, *SLOW, "pydantic", "rich", "importlib.metadata")),
        ("run --help", (*HEAVY, *SLOW)),
        ("convert --help", (*HEAVY, *SLOW)),
        ("schema tracks", (*HEAVY, "flows.recipes.recipe")),
        ("plan {ingest}", HEAVY),
        ("run {ingest}", [name for name in HEAVY if name != "duckdb"]),
        ("verify {clip}", ("torch", "transformers", "huggingface_hub", "duckdb", "prefect", "scipy")),
        ("sql 'SELECT count(*) FROM tracks' {store}", [*(set(HEAVY) - {"duckdb"}), "flows.recipes.recipe", *OF_RUNS]),
        ("show tracks {store}", [*(set(HEAVY) - {"duckdb"}), "flows.recipes.recipe", "pyarrow.compute"]),
    ],
)
def test_a_command_imports_only_the_modules_that_it_needs(command, absent, settled):
    script = (
        "import sys; from flows.cli import run_command; "
        f"code = run_command({shlex.split(command.format(**settled))}); "
        f"print(code, [name for name in {sorted(absent)} if name in sys.modules])"
    )
    program = [sys.executable, "-c", script]
    ended = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True)
    assert ended.stdout.splitlines()[-1] == "0 []", ended.stderr


@pytest.fixture
def published(recordings, tmp_path):
    """Options for a run of a published preset without a network: only the weights of a text model are on this
    machine."""
    for name in ("codec", "words"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
    words = ["--source", str(recordings), "--store", str(tmp_path / "store"), "--set", "settings.offline=true"]
    knobs = (f"tokenize.codec={tmp_path / 'codec'}", f"train.text_encoder={tmp_path / 'words'}", "evaluate.clap=null")
    return [*words, *(word for knob in knobs for word in ("--set", knob))]


def test_a_text_model_is_planned_without_separator_or_clap(published, capfd):
    assert run_command(["plan", "--preset", "musicgen-small", *published]) == 0
    planned = [line.split()[0] for line in capfd.readouterr().out.splitlines()[1:]]
    made = ["generate", "gate", "decode", "evaluate", "originality", "controls", "measure", "report"]
    assert planned[:12] == ["ingest", "tokenize", "train", "requests", *made]
    assert planned[12:] == ["order:", "to"]
    assert run_command(["plan", "ingest", "tokenize", "train", "--preset", "musicgen-small", *published]) == 0
    capfd.readouterr()
    for words in (["plan", "--all-tables"], ["plan", "--set", "settings.all_tables=true"], ["plan", "chroma", "clap"]):
        assert run_command([*words, "--preset", "musicgen-small", *published]) == 1
        complaint = capfd.readouterr().err
        assert "missing weights demucs:htdemucs (chroma.separator), lukewys/laion_clap/" in complaint
    without = ["--set", "chroma.separator=null", "--set", "clap.model=null"]
    assert run_command(["plan", "--all-tables", *without, "--preset", "musicgen-small", *published]) == 0
    planned = [line.split()[0] for line in capfd.readouterr().out.splitlines()[1:]]
    assert "chroma" in planned
    assert "clap" not in planned


def test_a_plan_fails_like_the_run_if_a_table_is_missing(published, capfd):
    words = ["ingest", "tokenize", "train", "--preset", "musicgen-melody", *published]
    for command in ("plan", "run"):
        assert run_command([command, *words, "--set", "chroma.separator=null"]) == 1
        lines = complaints(capfd.readouterr().err)
        assert len(lines) == 1, lines
        assert "expected the table chroma (version " in lines[0]
        assert "run chroma first, or in one run" in lines[0]
    assert run_command(["plan", "chroma", *words, "--set", "chroma.separator=null"]) == 0


def test_a_model_that_does_not_read_melodies_does_not_depend_on_their_analysis(published):
    def versions(*changes):
        options = parse_run_options(["chroma", "tokenize", "train"], "musicgen-small", {"store": store}, changes)
        pipeline = options.plan.pipeline()
        return {name: pipeline.fingerprint(name) for name in ("chroma", "train")}, pipeline.versions("train").keys()

    store = published[published.index("--store") + 1]
    knobs = [word for word in published if "." in word and "=" in word]
    (plain, reads), (changed, _) = (
        versions(*knobs, "chroma.separator=null", *more) for more in ([], ["chroma.window=8192"])
    )
    assert reads == {"tracks", "tokens"}
    assert plain["chroma"] != changed["chroma"]
    assert plain["train"] == changed["train"]


@pytest.mark.parametrize("field", ["tokenize.codec", "evaluate.codec", "generate.checkpoint"])
def test_null_is_not_accepted_as_the_name_of_weights(field, tmp_path, capfd):
    assert run_command(["plan", "--store", str(tmp_path / "store"), "--set", f"{field}=null"]) == 2
    assert f"{field}: expected a valid string, got None" in capfd.readouterr().err


def test_a_run_prints_its_first_line_before_slow_imports(tmp_path):
    script = (
        "import sys\n"
        "class Errors:\n"
        "    lines = []\n"
        f"    def write(self, text): self.lines.append((text, [name for name in {SLOW} if name in sys.modules]))\n"
        "    def flush(self): pass\n"
        "    def isatty(self): return False\n"
        "sys.stderr = errors = Errors()\n"
        "from flows.cli import run_command\n"
        f"run_command(['run', 'sing', '--store', {str(tmp_path / 'store')!r}])\n"
        "print(errors.lines[0], 'flows.recipes.recipe' in sys.modules)"
    )
    program = [sys.executable, "-c", script]
    ended = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True)
    assert ended.stdout.splitlines()[-1] == f"({PLANNING!r}, []) True"


def test_missing_weights_are_reported_at_once_in_one_line_with_exit_code_1(recordings, tmp_path, capfd):
    words = ["--preset", "musicgen-small", "--source", str(recordings), "--store", str(tmp_path / "store")]
    assert run_command(["run", *words, "--set", "settings.offline=true"]) == 1
    lines = complaints(capfd.readouterr().err)
    assert len(lines) == 1, lines
    assert "missing weights" in lines[0]


def test_a_model_that_is_not_yet_trained_is_reported_in_one_line_with_its_stage(tmp_path, capfd):
    assert run_command(["run", "train", "--store", str(tmp_path / "store")]) == 1
    lines = complaints(capfd.readouterr().err)
    assert len(lines) == 1, lines
    assert "expected a trained checkpoint 'text_encoder'" in lines[0]
    assert "train it first (the stage demo_models)" in lines[0]


def test_a_store_that_cannot_be_written_is_reported_in_one_line_before_anything_is_read(recordings, tmp_path, capfd):
    (tmp_path / "file").write_text("a file where a folder should be")
    words = ["--source", str(recordings), "--store", str(tmp_path / "file" / "store")]
    assert run_command(["run", "ingest", *words]) == 1
    lines = complaints(capfd.readouterr().err)
    assert len(lines) == 1, lines
    assert "expected a store that can be written" in lines[0]
    assert (tmp_path / "file").read_text() == "a file where a folder should be"


def test_a_missing_source_is_reported_in_one_line_with_exit_code_1(tmp_path, capfd):
    assert run_command(["run", "ingest", "--source", str(tmp_path / "no"), "--store", str(tmp_path / "s")]) == 1
    lines = complaints(capfd.readouterr().err)
    assert len(lines) == 1, lines
    assert "does not exist" in lines[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_missing_device_is_reported_in_one_line_before_anything_is_read(recordings, tmp_path, capfd):
    words = ["--source", str(recordings), "--store", str(tmp_path / "store"), "--set", "settings.device=cuda"]
    assert run_command(["run", "ingest", "chroma", "--set", "chroma.separator=null", *words]) == 1
    lines = complaints(capfd.readouterr().err)
    assert len(lines) == 1, lines
    assert "expected a CUDA device" in lines[0]


def test_a_damaged_shard_is_named_in_one_line_by_runs_plans_and_queries(recordings, tmp_path, capfd):
    from flows.recipes.recipe import Recipe
    from schemas import Settings
    from schemas.tables import TRACKS
    from stages.pipeline.pipeline import Pipeline

    settings = Settings(store=str(tmp_path / "store"), source=str(recordings))
    pipeline = Pipeline(Recipe().configured_stages(settings.source), settings)
    shard = pipeline.store.shard_path(TRACKS, pipeline.fingerprint("ingest"), "0")
    pipeline.store.write_bytes(shard, b"half of a shar")
    run = ["run", "ingest", "--source", str(recordings), "--store", settings.store]
    asked = [(run, 1), (["plan", *run[1:]], 1), (["sql", "SELECT 1", "--store", settings.store], 2)]
    for words, code in asked:
        assert run_command(words) == code
        lines = complaints(capfd.readouterr().err)
        assert len(lines) == 1, lines
        assert pipeline.store.path(shard) in lines[0]
        assert "segue check" in lines[0]


def test_a_run_ends_with_a_table_and_a_run_with_nothing_to_do_needs_no_prefect(server, recordings, tmp_path):
    words = ["run", "ingest", "--source", str(recordings), "--store", str(tmp_path / "store")]
    first = segue(*words, environment=server.environment)
    out, errors = first.communicate(timeout=PATIENCE_SECONDS)
    assert first.returncode == 0, errors
    assert out.splitlines()[0].split() == ["stage", "rows", "made", "reused", "refused", "seconds"]
    assert out.splitlines()[1].split()[:4] == ["ingest", "3", "0", "0"]
    assert errors.splitlines()[:2] == [PLANNING, STARTING]
    assert "reading recordings: 3/3 tracks" in errors
    nowhere = server.environment | {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    second = segue(*words, environment=nowhere)
    out, errors = second.communicate(timeout=PATIENCE_SECONDS)
    assert second.returncode == 0, errors
    assert out.splitlines()[1].split()[:4] == ["ingest", "0", "3", "0"]


def test_plans_and_runs_list_refusals_and_remarks_and_the_queries_for_them(recordings, tmp_path, capfd):
    from flows.recipes.recipe import Recipe
    from flows.runs.running import Run, RunPlan, run_stages
    from schemas import Settings

    music = tmp_path / "music"
    shutil.copytree(recordings, music)
    (music / "metadata.csv").write_text("file_name,title\nnowhere.wav,T\n")
    (music / "bad.wav").write_bytes(b"bad")
    words = ["ingest", "--source", str(music), "--store", str(tmp_path / "store")]
    assert run_command(["plan", *words]) == 0
    noticed = "1 × ingest: no row names a recording here (metadata.csv), such as nowhere.wav"
    assert capfd.readouterr().err.splitlines() == [noticed]
    settings = Settings(store=str(tmp_path / "store"), source=str(music), workers=1)
    run_stages(Run(RunPlan(Recipe().configured_stages(settings.source), ["ingest"], settings, True)))
    capfd.readouterr()
    assert run_command(["run", *words]) == 0
    lines = [line.strip() for line in capfd.readouterr().err.splitlines()]
    assert lines[1] == "refused 1:"
    assert lines[2].startswith(f"1 × ingest: unreadable, such as {music}/bad.wav: expected")
    assert lines[4:6] == ["noticed:", noticed]
    for line in (lines[3], lines[6]):
        command = shlex.split(line.removeprefix("all of them: `segue ").removesuffix("`"))
        assert run_command(command) == 0, line
        assert "ingest" in capfd.readouterr().out


def test_plans_and_runs_report_another_run_in_progress_on_the_store(recordings, tmp_path, monkeypatch, capfd):
    def refuse() -> None:
        raise ValueError("expected no server here")

    monkeypatch.setattr("flows.commands.foreground.start_server", refuse)  # the report comes before this
    store = Store(str(tmp_path / "store"))
    words = ["ingest", "--preset", "musicgen-small", "--source", str(recordings), "--store", store.root]
    told = "segue: another run is at work on this store: run 20261130T131652-41c178 (process "
    with hold_lease(store, "tokenize-v", "20261130T131652-41c178", pytest.fail, lambda: None):
        for command, code in (("plan", 0), ("run", 1)):
            assert run_command([command, *words]) == code
            assert told in capfd.readouterr().err
    for command, code in (("plan", 0), ("run", 1)):
        assert run_command([command, *words]) == code
        assert told not in capfd.readouterr().err


def test_a_source_may_be_given_several_times(tmp_path, capfd):
    for name in ("one", "two"):
        make_recordings(tmp_path / name, 2)
    words = ["--source", str(tmp_path / "one"), "--source", str(tmp_path / "two"), "--store", str(tmp_path / "store")]
    assert run_command(["plan", "ingest", *words]) == 0
    assert capfd.readouterr().out.splitlines()[1].split()[:3] == ["ingest", "1", "4"]
    listed = f'["{tmp_path}/one", "{tmp_path}/two"]'
    assert run_command(["plan", "ingest", *words[4:], "--set", f"settings.source={listed}"]) == 0
    assert capfd.readouterr().out.splitlines()[1].split()[:3] == ["ingest", "1", "4"]


def test_sql_answers_as_a_table_csv_and_json(recordings, tmp_path, capfd):
    from flows.recipes.recipe import Recipe
    from flows.runs.running import Run, RunPlan, run_stages
    from schemas import Settings

    store = str(tmp_path / "store")
    settings = Settings(store=store, source=str(recordings), workers=1)
    run_stages(Run(RunPlan(Recipe().configured_stages(settings.source), ["ingest"], settings, True)))
    capfd.readouterr()
    question = "SELECT format, seconds, moods FROM tracks ORDER BY uri LIMIT 1"
    assert run_command(["sql", question, "--store", store, "--format", "csv"]) == 0
    assert capfd.readouterr().out.splitlines()[0] == "format,seconds,moods"
    assert run_command(["sql", question, "--store", store, "--format", "json"]) == 0
    assert json.loads(capfd.readouterr().out)[0]["seconds"] == 1.0
    assert run_command(["sql", question, "--store", store]) == 0
    assert "(1 row)" in capfd.readouterr().out
    assert run_command(["sql", "DROP VIEW tracks", "--store", store]) == 2
    assert "read-only" in capfd.readouterr().err
    assert run_command(["sql", "SELECT nothing FROM tracks", "--store", store]) == 2
    lines = complaints(capfd.readouterr().err)
    assert len(lines) == 1, lines
    assert "nothing" in lines[0]


def test_a_reader_that_closes_the_pipe_causes_no_traceback(tmp_path):
    (tmp_path / "store").mkdir()
    question = "SELECT range AS number FROM range(200000)"
    process = segue(
        "sql", question, "--store", str(tmp_path / "store"), "--format", "csv", environment=dict(os.environ)
    )
    process.stdout.readline()
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.wait(PATIENCE_SECONDS)


def test_closed_streams_cause_no_traceback_and_no_file_gets_their_numbers(tmp_path):
    store = tmp_path / "store"
    Store(str(store)).require()
    for words in (["sql", "SELECT 1"], ["status"]):
        command = shlex.join([sys.executable, "-m", "flows.cli", *words, "--store", str(store)])
        for closed in (">&-", "<&- >&-", "<&- >&- 2>&-"):
            ended = subprocess.run(["sh", "-c", f"{command} {closed}"], cwd=ROOT, capture_output=True, check=False)
            assert (ended.returncode, ended.stderr) == (0, b""), (words, closed)
    opening = "import os; from flows import cli; cli.open_standard_streams(); assert os.open('kept', os.O_CREAT) > 2"
    command = shlex.join([sys.executable, "-c", opening])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(["sh", "-c", f"{command} <&- >&-"], cwd=tmp_path, env=environment, check=True)


def test_a_failed_check_holds_a_table_back_and_a_wrong_checks_file_is_one_line(recordings, tmp_path, capfd):
    store, checks = str(tmp_path / "store"), tmp_path / "checks.yaml"
    words = ["run", "ingest", "--source", str(recordings), "--store", store, "--checks", str(checks)]
    checks.write_text("- {name: no sound, table: tracks, sql: SELECT uri FROM tracks}")
    assert run_command(words) == 1
    assert "the check 'no sound' of tracks expects no rows, got" in capfd.readouterr().err
    assert run_command(["sql", "SELECT count(*) AS n FROM tracks", "--store", store, "--format", "json"]) == 0
    assert json.loads(capfd.readouterr().out) == [{"n": 0}]
    for wrong, message in (
        ("table: tracks", "expected a list of checks"),
        ("- {table: runs, sql: SELECT 1}", "expected a table that a stage publishes"),
        ("- [", "expected a YAML file for --checks"),
    ):
        checks.write_text(wrong)
        assert run_command(words) == 2
        (line,) = complaints(capfd.readouterr().err)
        assert message in line
