"""The card of a trained model: `README.md` in its folder, as Hugging Face's hub shows it, with metadata for the hub at
its head (M. Mitchell et al., "Model cards for model reporting", arXiv:1810.03993).

When a checkpoint is converted, its card is converted too: what it says of data and quality stays, and the section on
loading is rewritten, because each form is loaded by another call. Texts from recordings' metadata are data: they are
written in code spans, where nothing is read as markup.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCardData

from model.conditioning.config import CONDITIONS, FIELDS
from stages.checkpoints.disk_errors import disk_errors
from stages.checkpoints.facts import CheckpointFacts
from stages.checkpoints.loading import Form

CARD = "README.md"
"""Name of the card in a checkpoint's folder."""

LOADING = "How to load"
"""Heading of the section on loading, which differs from form to form."""

LIBRARIES: Mapping[Form, str] = {"segue": "segue", "hf": "transformers", "audiocraft": "audiocraft"}
"""The library that loads each form, by the hub's names of libraries."""

PIPELINE, TAGS = "text-to-audio", ("musicgen", "music", "segue")

LICENCE = {
    "license": "other",
    "license_name": "not-chosen-see-licences-of-the-data",
    "license_link": "README.md#licences-of-the-data",
}
"""Metadata on the model's own licence. Only the model's owner can choose one."""

DATA_LICENCES = (
    "These are the licences in the recordings' metadata. No licence is chosen here for the model itself: its owner "
    "must decide what these licences allow."
)
"""Introduction to the licences of the data."""

LONGEST_LITERAL = 200
"""Characters of a foreign text that a card shows at most."""

_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*\r?\n", re.DOTALL | re.MULTILINE)
_LOADING_SECTION = re.compile(rf"^## {LOADING}\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class ModelCard:
    """The content of a card beside the facts that the model's folder states."""

    name: str
    data: Sequence[str] = ()
    """What the model was taught: list items in Markdown."""
    licences: Sequence[str] = ()
    """Licences of the recordings: list items in Markdown."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    origin: Sequence[str] = ()
    """Recipe, data and parents: list items in Markdown."""
    base_model: str | None = None
    """The hub id of the checkpoint that training began with; None where it has none."""


def literal(text: str) -> str:
    """Write a foreign text as a code span on one line, whatever it contains; cut it if it is long."""
    plain = " ".join(text.split())
    plain = "".join(letter for letter in plain if unicodedata.category(letter)[0] != "C")[:LONGEST_LITERAL].strip()
    longest = max((len(run) for run in re.findall("`+", plain)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {plain} {fence}" if longest or not plain else f"{fence}{plain}{fence}"


@disk_errors()
def write_card(folder: Path, text: str) -> None:
    """Write a card into a checkpoint's folder."""
    (folder / CARD).write_text(text, encoding="utf-8")


def card_text(card: ModelCard, facts: CheckpointFacts, form: Form, checkpoint_id: str | None = None) -> str:
    """Return the text of a card.

    Args:
        facts: facts of the checkpoint.
        checkpoint_id: the checkpoint's id, if the folder is one of the store's own; else None.
    """
    results = [
        EvalResult(
            task_type=PIPELINE,
            dataset_type="held-out",
            dataset_name="held-out tracks",
            metric_type="cross-entropy",
            metric_name=name,
            metric_value=card.metrics[name],
        )
        for name in ("valid_cross_entropy", "test_cross_entropy")
        if name in card.metrics
    ]
    metadata = ModelCardData(
        **LICENCE,  # type: ignore[arg-type]
        library_name=LIBRARIES[form],
        pipeline_tag=PIPELINE,
        tags=list(TAGS),
        base_model=card.base_model,
        model_name=card.name if results else None,
        eval_results=results or None,
    )
    sections = [
        f"# {card.name}",
        "A language model over the codes of a neural codec, as MusicGen is (arXiv:2306.05284), trained with Segue.",
        loading_section(form, facts, checkpoint_id),
        _section("What it reads", _interface(facts)),
        _section("What it was trained on", card.data),
        _section("Licences of the data", card.licences, DATA_LICENCES),
        _metrics_section(card.metrics),
        _section("Where it comes from", card.origin),
    ]
    return f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(filter(None, sections)) + "\n"


def converted_card(text: str | None, facts: CheckpointFacts, form: Form) -> str:
    """Return the card of a checkpoint that was converted to another form.

    Args:
        text: the card of the source; None where it has none.
    """
    if text is None:
        return card_text(ModelCard("A music model"), facts, form)
    metadata, body = _parse(text)
    metadata |= {"library_name": LIBRARIES[form]}
    metadata = {"pipeline_tag": PIPELINE} | metadata
    section = loading_section(form, facts)
    if _LOADING_SECTION.search(body):
        body = _LOADING_SECTION.sub(lambda _: f"{section}\n\n", body, count=1)
    else:
        body = f"{section}\n\n{body.lstrip()}"
    front = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True).strip()
    return f"---\n{front}\n---\n\n{body.strip()}\n"


def _parse(text: str) -> tuple[dict[str, object], str]:
    """Return the metadata and the body of a card; the metadata is empty where it cannot be read."""
    match = _FRONT_MATTER.match(text)
    if match is None:
        return {}, text
    try:
        metadata = yaml.safe_load(match[1])
    except yaml.YAMLError:
        metadata = None
    return metadata if isinstance(metadata, dict) else {}, text[match.end() :]


def loading_section(form: Form, facts: CheckpointFacts, checkpoint_id: str | None = None) -> str:
    """Return the section on how a model in a form is loaded and generates. All its calls have been run, except
    AudioCraft's, which is not installed with this project."""
    coefficient = facts.distilled_guidance
    guidance_notes = (
        []
        if coefficient is None
        else [
            f"It has learned guidance {coefficient:g} by distillation: use it with guidance 1. In one pass it follows "
            "its conditions as the model that it learned from did in two."
        ]
    )
    blocks = {"segue": _loads_here, "hf": _loads_in_transformers, "audiocraft": _loads_in_audiocraft}[form](
        facts, checkpoint_id
    )
    return "\n\n".join([f"## {LOADING}", *guidance_notes, *blocks])


def _loads_here(facts: CheckpointFacts, checkpoint_id: str | None) -> list[str]:
    if checkpoint_id is not None:
        return [
            "In the store that it was trained in, with the options of that run:",
            f"```\nsegue run generate decode --set generate.checkpoint={checkpoint_id}\n```",
            "To export it with everything that it needs (`--to hf` and `--to audiocraft` write other forms):",
            f"```\nsegue convert checkpoint:{checkpoint_id} ./model --to segue\n```",
        ]
    return [
        "With Segue, from the folder that holds this one as `model`:",
        "```\nsegue run generate decode --requests requests.csv --set generate.checkpoint=./model\n```",
        "or in Python, from within this folder:",
        "```python\nfrom pathlib import Path\n\nfrom schemas import Store\nfrom schemas.weights import WeightsLibrary\n"
        "from stages.checkpoints.loading import load_checkpoint\n\n"
        'trained = load_checkpoint(Path("."), WeightsLibrary(Store("./store")).get)\n```',
    ]


def _loads_in_transformers(facts: CheckpointFacts, checkpoint_id: str | None) -> list[str]:
    melody = facts.model.chroma is not None
    name = "MusicgenMelodyForConditionalGeneration" if melody else "MusicgenForConditionalGeneration"
    steps = facts.segment_frames
    return [
        f"With transformers, from within this folder ({facts.segment_seconds:g} s, {steps} frames, at most):",
        f"```python\nfrom transformers import AutoProcessor, {name}\n\n"
        'processor = AutoProcessor.from_pretrained(".")\n'
        f'model = {name}.from_pretrained(".")\n'
        'inputs = processor(text=["a calm waltz"], padding=True, return_tensors="pt")\n'
        f"audio = model.generate(**inputs, max_new_tokens={min(steps, 256)})\n```",
        "`generation_config.json` contains the intended settings of sampling and guidance.",
    ]


def _loads_in_audiocraft(facts: CheckpointFacts, checkpoint_id: str | None) -> list[str]:
    parameters = f"duration={min(8.0, facts.segment_seconds):g}"
    if facts.distilled_guidance is not None:
        parameters += ", cfg_coef=1.0"
    return [
        "With AudioCraft 1.3, from within this folder:",
        '```python\nfrom audiocraft.models import MusicGen\n\nmodel = MusicGen.get_pretrained(".")\n'
        f'model.set_generation_params({parameters})\naudio = model.generate(["a calm waltz"])\n```',
    ]


def _section(title: str, items: Sequence[str], introduction: str = "") -> str:
    listed = "\n".join(f"- {item}" for item in items)
    return "\n\n".join(filter(None, [f"## {title}", introduction, listed])) if items else ""


def _interface(facts: CheckpointFacts) -> list[str]:
    """Describe the inputs and outputs of the model, as list items in Markdown."""
    names = [
        f"`{name}`" + (f" ({facts.model.fields[name].kind})" if name in FIELDS else "")
        for name in CONDITIONS
        if name in facts.model.conditions
    ]
    decoder = facts.model.language_model
    items = [
        f"conditions: {', '.join(names) or 'none'}",
        f"windows of {facts.segment_seconds:g} s; a longer clip is made of several",
        f"codes: {decoder.codebooks} codebooks of {decoder.cardinality}, {facts.frame_rate:g} frames a second",
    ]
    if facts.codec is not None:
        sound = {1: "mono", 2: "stereo"}.get(facts.codec.channels, f"{facts.codec.channels} channels")
        where = f", from {literal(facts.codec.reference)}" if facts.codec.reference else ""
        items.append(f"codec: {facts.codec.sample_rate:,} Hz, {sound}, identity `{facts.codec.identity[:16]}`{where}")
    return items


def _metrics_section(metrics: Mapping[str, float]) -> str:
    if not metrics:
        return ""
    rows = [f"| `{name}` | {value:.4g} |" for name, value in metrics.items()]
    unit = "Cross-entropy in nats a code, on tracks that the model was not trained on (`valid`, `test`)."
    return "\n\n".join(["## Quality", unit, "\n".join(["| metric | value |", "| --- | --- |", *rows])])
