"""The whole pipeline by the real stages, in seconds: a codec and a language model without conditions."""

import json
from pathlib import Path
from typing import Any

import soundfile

from flows.recipes.merging import merge
from flows.recipes.presets import miniature
from flows.recipes.recipe import Recipe
from flows.runs.running import Run, RunPlan, plan_run, run_stages
from schemas import Settings
from tests.worlds import codec_world

REQUESTS = "name,seconds,prompt,prompt_seconds\none,0.5,,\ntwo,0.5,,\nthree,0.8,title:Piece 3,0.2\n"
"""The last request continues a recording of Cy's."""
NO_CONDITIONS = dict.fromkeys(("description", "chroma", "clap", "beat", "chords"))
ARTISTS = ("Ada", "Bob", "Ada", "Cy", "Bob", "Cy", "Dee", "Dee")
"""The artist of each recording."""


def write_recordings(folder: Path, artists: tuple[str, ...] = ARTISTS) -> None:
    """Write two-second pieces into a folder, each with the metadata of its artist."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, artist in enumerate(artists):
        soundfile.write(folder / f"{number}.flac", codec_world.piece(number), codec_world.SAMPLE_RATE)
        described = {"title": f"Piece {number}", "artist": artist, "license": "CC BY 4.0"}
        (folder / f"{number}.json").write_text(json.dumps(described))


def recipe(**changes: Any) -> Recipe:
    """A recipe whose models learn next to nothing; `changes` are merged over it."""
    codec = codec_world.recipe().model_dump(exclude={"licences"})
    decoder = {"codebooks": codec_world.CODEBOOKS, "cardinality": codec_world.CARDINALITY}
    decoder |= {"width": 16, "heads": 2, "layers": 1, "cross": (), "prepend": (), "sum": ()}
    values: dict[str, Any] = {
        "ingest": {"valid": 0.0, "test": 0.0},
        "train_codec": codec | {"reconstructions": 1},
        "clap": {"model": None},
        "train": {
            "model": {"language_model": decoder, "fields": {"key": None, "bpm": None}, **NO_CONDITIONS},
            **{
                "text_encoder": None,
                "attribute_dropout": dict.fromkeys(miniature()["train"]["attribute_dropout"], 0.0),
            },
            **{"batch_size": 2, "micro_batch_size": 2},
            **{"segment_seconds": 1.0, "optimization": {"steps": 2, "warmup_steps": 1}},
        },
        "generate": {"clap": None, "vocabulary": None, "separator": None},
        "evaluate": {"clap": None},
    }
    return Recipe.model_validate(merge({"preset": "miniature"} | values, changes))


def run(folder: Path, chosen: Recipe | None = None, stages: tuple[str, ...] = ()) -> Run:
    """Run all stages, or those named, with `folder/music` and `folder/requests.csv` into `folder/store`."""
    current = Run(planned(folder, chosen, stages))
    run_stages(current)
    return current


def planned(folder: Path, chosen: Recipe | None = None, stages: tuple[str, ...] = ()) -> RunPlan:
    """The plan of such a run."""
    (folder / "requests.csv").write_text(REQUESTS)
    settings = Settings(
        store=str(folder / "store"),
        source=str(folder / "music"),
        requests=str(folder / "requests.csv"),
        **{"device": "cpu", "workers": 1},
    )
    return plan_run(chosen or recipe(), settings, stages)
