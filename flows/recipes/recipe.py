"""A recipe: the configuration of every stage, from a preset with what was asked for merged over it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import ModuleType
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, Field, WithJsonSchema, field_validator, model_validator

import stages.chroma
import stages.clap
import stages.decode
import stages.demo
import stages.demo.models
import stages.descriptions
import stages.evaluate
import stages.evaluate.controls
import stages.evaluate.measures
import stages.gate
import stages.generate
import stages.harmony
import stages.ingest
import stages.nearest
import stages.originality
import stages.report
import stages.requests
import stages.rhythm
import stages.tokenize
import stages.train
import stages.train_codec
import stages.watermark
from flows.recipes.merging import merge
from flows.recipes.presets import DEFAULT_PRESET, PRESET_NAMES, preset_difference
from model.conditioning.config import ChromaConfig
from schemas import Config, Settings, Store
from schemas.identity import weights_in
from schemas.names import did_you_mean
from schemas.queries.checks import Check
from stages.pipeline.plans import ConfiguredStage


@dataclass(frozen=True)
class Stage:
    """The stage that a field of `Recipe` configures."""

    module: ModuleType
    gpu: bool = False
    """Whether it runs models, and so uses an accelerator if there is one."""


Path = tuple[str, ...]
"""Names of nested fields, a stage's first."""

FOLLOWED: Mapping[Path, tuple[Path, ...]] = {
    ("ingest", "licences"): (("train_codec", "licences"), ("train", "licences")),
    ("tokenize", "codec"): (
        *(("generate", "codec"), ("gate", "codec"), ("decode", "codec"), ("watermark", "codec")),
        *(("evaluate", "codec"), ("controls", "codec")),
    ),
    ("chroma", "separator"): (("generate", "separator"),),
    ("clap", "model"): (*(("descriptions", "model"), ("generate", "clap"), ("evaluate", "clap"), ("train", "clap")),),
    ("decode", "watermark"): (("watermark", "mark"),),
    ("decode", "loudness"): (("watermark", "loudness"),),
    ("decode", "true_peak"): (("watermark", "true_peak"),),
    ("decode", "max_gain"): (("watermark", "max_gain"),),
    ("evaluate", "clap"): (("measure", "clap"),),
    ("clap", "vocabulary"): (
        *(("descriptions", "vocabulary"), ("generate", "vocabulary"), ("evaluate", "vocabulary")),
        ("train", "vocabulary"),
    ),
    ("generate", "stride"): (("evaluate", "stride"),),
    ("generate",): (("gate", "generation"),),  # last, when all of `generate` is filled in
}
"""For each field, the fields of other stages that take its value unless they are given."""


class Recipe(Config):
    """What to make, as opposed to where and with which resources (`Settings`): a field for each stage, in the order of
    a run.

    Codec, CLAP, separator and the measuring of melodies are each configured in the stage that makes a table with them.
    Other stages take the same values unless they are given their own (`FOLLOWED`).
    """

    preset: str = Field(default=DEFAULT_PRESET, json_schema_extra={"enum": list(PRESET_NAMES)})
    """The preset that sets all fields that are not given."""
    demo: Annotated[stages.demo.Config, Stage(stages.demo)] = stages.demo.Config()
    ingest: Annotated[stages.ingest.Config, Stage(stages.ingest)] = stages.ingest.Config()
    train_codec: Annotated[stages.train_codec.Config, Stage(stages.train_codec, gpu=True)] = stages.train_codec.Config()
    demo_models: Annotated[stages.demo.models.Config, Stage(stages.demo.models, gpu=True)] = stages.demo.models.Config()
    chroma: Annotated[stages.chroma.Config, Stage(stages.chroma, gpu=True)] = stages.chroma.Config()
    rhythm: Annotated[stages.rhythm.Config, Stage(stages.rhythm)] = stages.rhythm.Config()
    harmony: Annotated[stages.harmony.Config, Stage(stages.harmony)] = stages.harmony.Config()
    clap: Annotated[stages.clap.Config, Stage(stages.clap, gpu=True)] = stages.clap.Config()
    descriptions: Annotated[stages.descriptions.Config, Stage(stages.descriptions, gpu=True)] = (
        stages.descriptions.Config()
    )
    tokenize: Annotated[stages.tokenize.Config, Stage(stages.tokenize, gpu=True)] = stages.tokenize.Config()
    train: Annotated[stages.train.Config, Stage(stages.train, gpu=True)] = stages.train.Config()
    requests: Annotated[stages.requests.Config, Stage(stages.requests)] = stages.requests.Config()
    generate: Annotated[stages.generate.Config, Stage(stages.generate, gpu=True)] = stages.generate.Config()
    gate: Annotated[stages.gate.Config, Stage(stages.gate, gpu=True)] = stages.gate.Config()
    decode: Annotated[stages.decode.Config, Stage(stages.decode, gpu=True)] = stages.decode.Config()
    watermark: Annotated[stages.watermark.Config, Stage(stages.watermark, gpu=True)] = stages.watermark.Config()
    evaluate: Annotated[stages.evaluate.Config, Stage(stages.evaluate)] = stages.evaluate.Config()
    nearest: Annotated[stages.nearest.Config, Stage(stages.nearest)] = stages.nearest.Config()
    originality: Annotated[stages.originality.Config, Stage(stages.originality)] = stages.originality.Config()
    controls: Annotated[stages.evaluate.controls.Config, Stage(stages.evaluate.controls, gpu=True)] = (
        stages.evaluate.controls.Config()
    )
    measure: Annotated[stages.evaluate.measures.Config, Stage(stages.evaluate.measures)] = (
        stages.evaluate.measures.Config()
    )
    report: Annotated[stages.report.Config, Stage(stages.report)] = stages.report.Config()
    checks: tuple[Check, ...] = ()
    """Checks that a table must pass before it is published, in addition to the built-in ones."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        name = given.get("preset", cls.model_fields["preset"].default)
        if not isinstance(name, str):
            return given
        # A field's default may be an instance whose values differ from its class's defaults. If only one of its fields
        # is given, the others must keep that instance's values.
        defaults = {stage: module.Config().model_dump() for stage, module in STAGES.items()}
        for follower in chain.from_iterable(FOLLOWED.values()):
            section = _at(defaults, follower[:-1])
            if section is not None:
                del section[follower[-1]]
        preset = merge(defaults, preset_difference(name))
        return _fill_followers(merge(merge(preset, _of_foreign_checkpoint(given)), given))

    @field_validator("preset")
    @classmethod
    def _known(cls, name: str) -> str:
        preset_difference(name)
        return name

    def configured_stages(
        self, source: str | Sequence[str] | None, requested: Collection[str] = (), all_tables: bool = False
    ) -> list[ConfiguredStage]:
        """Return the stages that take part, in order.

        A stage that trains a stand-in takes part only if the recipe names the stand-in; one that makes a condition,
        only if the model reads the condition or the stage is asked for. Descriptions are embedded only if sounds are.

        Args:
            source: where the recordings are; None to ingest the demo corpus.
            requested: stages that are asked for by name.
            all_tables: whether to make conditions that the model does not read, too.
        """
        after = {} if source else {"ingest": "demo"}
        left_out = {name for name in self._unread() if not all_tables and name not in requested}
        # Chords are detected from beat to beat, so whoever needs them needs the table of beats.
        wanted = {table for name in _CONDITION_STAGES - left_out for table in STAGES[name].READS}
        left_out = {name for name in left_out if STAGES[name].WRITES not in wanted}
        if self.clap.model is None:
            left_out.add("clap")
        if self.descriptions.model is None or ("clap" in left_out and "descriptions" not in requested):
            left_out.add("descriptions")
        if self.evaluate.clap is None or "clap" in left_out:
            left_out.add("nearest")
        named = weights_in([getattr(self, name) for name in STAGES if name not in left_out])
        checkpoints = {reference.checkpoint for reference in named}
        names = [name for name in STAGES if name not in left_out and self._takes_part(name, source, checkpoints)]
        return [ConfiguredStage(name, STAGES[name], getattr(self, name), after.get(name)) for name in names]

    def _unread(self) -> set[str]:
        """Return the stages whose tables this recipe's training does not read, though another model's could."""
        read = stages.train.reads(self.train)
        unread = [table for table in stages.train.READS if table not in read]
        return {name for name, module in STAGES.items() if module.WRITES in unread}

    def _takes_part(self, name: str, source: str | Sequence[str] | None, checkpoints: set[str | None]) -> bool:
        if name == "demo" and source is not None:
            return False
        if name == "train_codec":
            return not checkpoints.isdisjoint(stages.train_codec.KINDS)
        if name == "watermark":
            return self.watermark.mark is not None and self.watermark.mark.detector is not None
        if name in ("demo", "demo_models"):
            return not checkpoints.isdisjoint(stages.demo.models.KINDS)
        return True

    @model_validator(mode="after")
    def _needs_clap_if_the_model_reads_it(self) -> Self:
        if self.train.model.clap is not None and self.clap.model is None:
            raise ValueError(
                "expected clap.model for a model that reads clap (train.model.clap), got none: "
                "name one, or set train.model.clap to null"
            )
        return self


_STAGES: Mapping[str, Stage] = {
    name: stage for name, field in Recipe.model_fields.items() for stage in field.metadata if isinstance(stage, Stage)
}
STAGES: Mapping[str, ModuleType] = {name: stage.module for name, stage in _STAGES.items()}
"""Every stage's module by name, in the order of a whole run."""

_CONDITION_STAGES = frozenset(name for name, module in STAGES.items() if module.WRITES in stages.train.READS)
"""The stages that make tables which a training may read."""

GPU_STAGES = frozenset(name for name, stage in _STAGES.items() if stage.gpu)


def known_stage(name: str) -> str:
    """Return the name itself if there is such a stage.

    Raises:
        ValueError: there is no such stage.
    """
    if name not in STAGES:
        raise ValueError(f"unknown stage {name!r}{did_you_mean(name, STAGES)}; allowed: {', '.join(STAGES)}")
    return name


StageName = Annotated[str, AfterValidator(known_stage), WithJsonSchema({"type": "string", "enum": list(STAGES)})]
"""A stage's name, checked when a run is asked for."""


def _at(recipe: Mapping[str, Any], path: Path) -> Any:
    """Return the value at a path; None if there is no such field."""
    value: Any = recipe
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _fill_followers(recipe: dict[str, Any]) -> dict[str, Any]:
    """Fill in the fields that take another field's value (`FOLLOWED`), and how the model's melodies are measured."""
    unread = _unread_by_newest(recipe)
    for leader, followers in FOLLOWED.items():
        for follower in followers:
            section = _at(recipe, follower[:-1])
            # Training needs to know the CLAP only if it embeds captions.
            unused = follower[0] == "train" and leader[0] == "clap" and not _at(recipe, ("train", "joint_text"))
            if isinstance(section, Mapping) and follower[-1] not in section and not unused:
                difference: Any = None if follower in unread else _at(recipe, leader)
                for name in reversed(follower):
                    difference = {name: difference}
                recipe = merge(recipe, difference)
    melody = _at(recipe, ("train", "model", "chroma"))
    if isinstance(melody, Mapping) and "analysis" not in melody:
        analysis = {name: value for name, value in recipe["chroma"].items() if name in ChromaConfig.model_fields}
        recipe = merge(recipe, {"train": {"model": {"chroma": {"analysis": analysis}}}})
    return recipe


def _unread_by_newest(recipe: Mapping[str, Any]) -> set[Path]:
    """Return the fields of `generate` that make conditions which the generating model does not read, if that model is
    the one that this recipe trains."""
    checkpoint = _at(recipe, ("generate", "checkpoint"))
    if not isinstance(checkpoint, str) or not stages.generate.is_newest(checkpoint):
        return set()
    unread = [name for name in stages.generate.CONDITION_FIELDS if _at(recipe, ("train", "model", name)) is None]
    return {("generate", field) for name in unread for field in stages.generate.CONDITION_FIELDS[name]}


def _of_foreign_checkpoint(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the difference that a checkpoint from elsewhere makes. Its own codec decodes its codes, and its clips are
    scored with a CLAP only if one is named."""
    given = merge({}, given)
    checkpoint = _at(given, ("generate", "checkpoint"))
    if not isinstance(checkpoint, str) or not stages.generate.is_foreign(checkpoint):
        return {}
    difference: dict[str, Any] = {
        stage: {"codec": checkpoint} for stage in ("generate", "gate", "decode", "watermark", "evaluate", "controls")
    }
    if _at(given, ("clap", "model")) is None and _at(given, ("evaluate", "clap")) is None:
        difference["evaluate"] |= {"clap": None, "vocabulary": None}
    return difference


def stage_models() -> dict[str, type[BaseModel]]:
    """Return the configuration behind each first name of a `--set` path."""
    return {"settings": Settings, **{name: STAGES[name].Config for name in STAGES}}


def selected_stages(configured: Sequence[ConfiguredStage], requested: Sequence[str] | None, preset: str) -> list[str]:
    """Return the names of the stages to run, in order: all that take part, or those requested. `generate` brings
    `requests`, which it reads; `decode` brings `gate`; and `ingest` brings `demo` where it ingests that corpus.

    Raises:
        ValueError: a stage is not known, or takes no part in the recipe.
    """
    taking_part = [stage.name for stage in configured]
    if not requested:
        return taking_part
    for name in requested:
        if known_stage(name) not in taking_part:
            raise ValueError(
                f"{name} is not part of the preset {preset}, which names nothing for it to make; "
                f"allowed: {', '.join(taking_part)}"
            )
    required = {"generate": "requests", "decode": "gate"}
    wanted = {*requested, *(first for name, first in required.items() if name in requested)}
    wanted |= {stage.after for stage in configured if stage.name in wanted and stage.after in taking_part}
    return [name for name in taking_part if name in wanted]


def with_source(settings: Settings, names: Sequence[str], taking_part: Sequence[str]) -> Settings:
    """Return the settings, with the store's demo corpus as the source if no source was given and the recipe makes that
    corpus.

    Raises:
        ValueError: recordings are to be ingested, and there is no source.
    """
    if settings.source is not None or "ingest" not in names:
        return settings
    if "demo" not in taking_part:
        raise ValueError("expected --source (a folder or URL of recordings), got none: this preset makes no corpus")
    store = Store(settings.store)
    return settings.model_copy(update={"source": store.location("demo")})
