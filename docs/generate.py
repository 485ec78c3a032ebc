"""Writes what the documentation takes from the code: `make docs`, or `python -m docs.generate [STORE]`.

`docs/reference.md` is written whole; sections between marks in other pages are replaced. With a store, the answers to
the queries of `docs/queries.md` are those of that store.
"""

import ast
import re
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pyarrow as pa
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from flows.cli import run_command
from flows.presets import PRESETS
from flows.recipe import STAGES
from schemas import Settings, Store
from schemas.database import query
from schemas.tables import TABLES

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

FIGURES = {
    "delay": ("Delay: each codebook one step later than the one before", "delay"),
    "parallel": ("Parallel: no delay", "delay --delays 0,0,0,0"),
    "unroll": ("Unroll: one code a step", "unroll --frames 3"),
    "coarse-first": ("Coarse first: the whole first codebook, then the others", "coarse_first"),
    "grouped": ("Grouped: groups of codebooks one after another, flattened", "grouped --frames 4"),
    "stereo": (
        "Stereo: left and right by turns, a delay for each pair",
        "delay --codebooks 8 --delays 0,0,1,1,2,2,3,3",
    ),
}
"""The figures of `docs/model.md`: a title, and what `segue pattern` is asked for."""

QUERIES = {
    "What did the last run do, and what did it cost?": """
SELECT stage, rows_made, rows_reused, rows_refused, round(seconds, 1) AS seconds
FROM runs WHERE run_id = (SELECT max(run_id) FROM runs) ORDER BY started_at""",
    "What is in the training set?": """
SELECT genre, split, count(*) AS tracks, round(sum(seconds)) AS seconds, round(avg(loudness), 1) AS lufs
FROM tracks GROUP BY ALL ORDER BY tracks DESC, genre, split LIMIT 5""",
    "How is the language model doing on recordings that it has not seen?": """
SELECT step, split, round(loss, 3) AS loss FROM training JOIN checkpoints USING (checkpoint_id)
WHERE kind = 'language_model' ORDER BY step DESC, split LIMIT 4""",
    "Which clips follow their melody best, and from which track did it come?": """
SELECT left(r.description, 40) AS description, r.melody, round(s.chroma_similarity, 2) AS trained,
       round(s.chroma_similarity_chance, 2) AS chance, c.path
FROM scores s JOIN requests r USING (request_id) JOIN clips c USING (request_id, take)
WHERE s.chroma_similarity IS NOT NULL ORDER BY s.chroma_similarity DESC LIMIT 3""",
    "From a clip back to its model and that model's data.": """
SELECT c.request_id[:8] AS request, c.checkpoint_id[:8] AS checkpoint, k.data_digest, k.rows_seen, k.steps
FROM clips c JOIN checkpoints k USING (checkpoint_id) ORDER BY c.request_id LIMIT 2""",
}

COLUMNS = {
    "action": "`stage` (one passed), `hold`, `rollback` or `release`",
    "album": "album",
    "artist": "artist, as written",
    "artists": "each artist that is named; none of them is in two splits",
    "bandwidth": "where the spectrum ends, Hz; an MP3 of 128 kbit/s stored as FLAC has 16,000",
    "beat_f_measure": "F-measure of the beats within 70 ms, 0 to 1",
    "beats": "times of the beats, s",
    "beats_asked": "times of the beats that were asked for, s: by `bpm` from the beginning",
    "beats_per_bar": "beats of a bar; null where no bar was told",
    "bpm": "tempo, beats a minute",
    "bpm_asked": "tempo that was asked for, beats a minute",
    "bpm_correct": "whether both tempi agree within 4 % (Accuracy 1); false where none was heard",
    "bpm_correct_octave": "the same where 2, 3, 1/2 and 1/3 times it are right too (Accuracy 2)",
    "bytes": "size, bytes",
    "cardinality": "entries of a codebook; codes are below it",
    "centroid": "centre of the mean magnitude spectrum, Hz",
    "channels": "1 mono, 2 stereo",
    "check": "what was looked at, or the name of your own check",
    "checkpoint_id": "the trained model; one from elsewhere by the digest of its files",
    "checkpoints": "models that learned from it, themselves or through a model that they were made with",
    "chord_accuracy": "share of the asked chords whose root and major or minor sound for most of their time, 0 to 1",
    "chords": "chords, in order (in `harmony`: from `start` to `end`, s, with `root` and `bass` as pitch classes, 0 "
    "for C, a root of -1 for no chord, and `quality` in Harte's names; in `requests`: a bar between two lines)",
    "chords_asked": "chords that were asked for, as `chords`",
    "chroma": "[frames][12], C first",
    "chroma_frame_rate": "frames of chroma a second, Hz",
    "chroma_similarity": "share of frames whose strongest pitch class is the one that was asked for, 0 to 1",
    "chroma_similarity_ceiling": "the same of the reference itself, through the codec",
    "chroma_similarity_chance": "the same of the reference at shuffled times",
    "clap": "reference to a sound or to words: `track:`, `title:`, `file:`, `text:`",
    "clap_similarity": "cosine of the clip's CLAP embedding and the request's, -1 to 1",
    "clipping": "share of samples at full scale, 0 to 1",
    "clipping_runs": "share of samples in runs of at least 3 at full scale, 0 to 1",
    "clips": "clips on the page",
    "code_version": "version of this project, and of its source",
    "codebook_loss": "cross-entropy of each codebook, nats a code",
    "codec": "digest of the codec's files, as in `checkpoints` or `weights`",
    "codec_identity": "digest of the codebooks in use: the same codec in every form that it comes in",
    "codec_reference": "how the codec was named",
    "codes": "[K][T], codebooks by frames",
    "confidence": "how sure the beats are, 0 to 1",
    "config": "configuration as JSON, with the digest of all weights that it names",
    "count": "how many there are of it",
    "created_at": "when it was made, UTC",
    "data_digest": "digest of the rows that it was trained on",
    "dc": "mean of the samples (of the channel where it is furthest from 0), as a share of full scale",
    "decoded": "file of what the codec made of it, under the store",
    "decoded_sha256": "SHA-256 of that file",
    "description": "text for the text condition",
    "description_source": "`metadata`, or `template` where `ingest.captions` made it",
    "device": "`cpu` or `cuda`",
    "digest": "digest of the content",
    "downbeats": "times of the beats that begin a bar, s; none where no bar was told",
    "drums": "whether drums are heard",
    "drums_asked": "whether the description asks for drums, or for none",
    "drums_correct": "whether both agree",
    "dual_mono": "whether the two channels of a stereo recording hold the same sound",
    "embeddings": "[windows][width], of length 1",
    "error": "why it failed; empty if it did not",
    "examples": "the first few of them",
    "fields": "further columns of the request that the model may be conditioned on, by name",
    "files": "each place where the recording lies: `uri`, `stamp` (size and time), `tags`",
    "fingerprint": "version of the table that was written",
    "format": "container and coding",
    "frame_rate": "frames a second, Hz",
    "frames": "length, frames of codes (in `tracks`: samples a channel)",
    "genre": "genre",
    "gradient_norm": "2-norm of the gradient before clipping",
    "guidance": "classifier-free guidance",
    "guidance_asked": "whether the line itself asks for that guidance, and does not leave it to the default",
    "guidance_text": "guidance of the text against the other conditions",
    "head_silence": "silence that it begins with, seconds (windows of 50 ms under -60 dBFS)",
    "held": "whether views stay as they are, whatever passes",
    "high": "upper end of the interval of 95 %",
    "index": "number in the corpus",
    "inputs": "version read of each table, by name",
    "instrument": "instrument",
    "instruments": "instruments",
    "item": "the track, or the request and its take",
    "key": "musical key, such as `A minor` (in `rejects`: the row's key, or where it is)",
    "key_confidence": "how sure the key is, 0 to 1",
    "key_asked": "key that was asked for",
    "key_correct": "whether both keys agree; false where none was heard",
    "key_score": "MIREX score of the key: 1 right, 0.5 a fifth off, 0.3 the relative key, 0.2 the parallel one",
    "keywords": "keywords",
    "kind": "kind of checkpoint, or kind of refusal",
    "learning_rate": "learning rate of the step",
    "licence": "licence",
    "line": "line of the requests file",
    "location": "the file, folder or field that it was noticed in",
    "log_mel_distance": "distance of log-mel spectra to the original",
    "loss": "the loss; of a language model the mean cross-entropy over codebooks, nats a code",
    "loudness": "integrated loudness, LUFS (ITU-R BS.1770)",
    "loudness_before": "loudness of what the codec gave, LUFS",
    "low": "lower end of the interval of 95 %",
    "lyrics": "words that are sung; no description",
    "measure": "a column of `scores`, or `mel_fd` and `fad_clap`, distances between sets",
    "mel_statistics": "mean and standard deviation of 8 mel bands, dB below the loudest point; what mel-FD compares",
    "melody": "reference to a melody (in `pieces`: notes, with onset and length in seconds and MIDI pitch)",
    "message": "the reason, for a person",
    "metadata_stamp": "digest of what the metadata files say of it",
    "meter": "metre that is asked for, such as `3/4`; null is 4/4",
    "metrics": "further figures, by name",
    "model_flops_utilisation": "share of the device's matrix rate that the step used, 0 to 1",
    "moods": "moods",
    "multi_scale_mel_distance": "mean distance of mel spectra over several scales",
    "n": "how many sounds it was measured on",
    "name": "your own id of the request",
    "nearest_similarity": "cosine of the CLAP embeddings of clip and nearest track",
    "nearest_track": "the training track that is nearest by CLAP",
    "note": "what it is relative to, or why it was refused",
    "number": "number of the segment",
    "original": "file of the original segment, under the store",
    "original_sha256": "SHA-256 of that file",
    "outputs": "files and folders that were written",
    "parameters": "number of weights",
    "paraphrases": "other texts that may stand for the description",
    "parents": "models that had a hand in it: ids of `checkpoints`, digests of `weights`",
    "passed": "whether it passed (in `publications`: the record that published each table last, by name)",
    "passing": "whether the next run tries it again, as the reason may have passed",
    "path": "file or folder, under the store",
    "peak": "highest sample, dBFS",
    "phase": "correlation of the first two channels, -1 to 1; empty where there is one",
    "piece_id": "the piece",
    "pitch_strength": "share of the strongest pitch class in a frame, mean over those that sound, 0 to 1",
    "prompt": "reference to the sound that is continued",
    "prompt_frames": "frames of the prompt, which the codes begin with",
    "prompt_seconds": "length of the prompt, seconds",
    "pulse_clarity": "highest autocorrelation of the onsets at a tempo, 0 to 1",
    "reading": "how tempo, metre and chords are read: bars of the clip, and the chord of each",
    "recipe": "digest of the settings that it was trained with",
    "reference": "how the weights are named",
    "replay_gain": "gain that the file's own tags ask of players, dB",
    "report_id": "the report",
    "request_id": "the request: digest of all that decides its result",
    "retake": "how many tries of the take came before, each with a seed of its own",
    "revision": "revision that the first use got",
    "rows_made": "rows made",
    "rows_refused": "rows refused",
    "rows_reused": "rows kept from earlier runs",
    "reason": "why",
    "reasons": "what speaks against it, a sentence each; none for a clip that passed",
    "requests": "requests whose clips were made with it as melody, prompt or sound",
    "rows_seen": "rows that it was trained on",
    "run_id": "the run; later runs sort after earlier ones",
    "sample_rate": "Hz",
    "seam_contrast": "share of moments at which the sound changes less than where decoding windows meet; about 0.5 "
    "where they fit; empty for a clip of one window",
    "seconds": "length, seconds (in `runs`: time taken)",
    "seconds_asked": "length that was asked for, seconds",
    "seed": "seed of all that is random in it",
    "sequence": "its place in the order of all, whatever clocks say",
    "severity": "`error` keeps the old rows in view, `warn` only tells",
    "sha256": "SHA-256 of the file",
    "shard": "number of the shard that the row lies in",
    "shards": "shards that it published: `table`, `shard`, `digest`, `rows`",
    "shown": "the record that the view of each table shows, by name",
    "si_snr": "scale-invariant signal-to-noise ratio, dB",
    "silence": "share of silent time, 0 to 1",
    "sounds": "whose: `clips`, `chance`, `raw` and `codec` (held-out recordings), `untrained`, `swap_…`, `guidance …`",
    "split": "`train`, `valid` or `test`",
    "stage": "the stage",
    "stage_version": "`VERSION` of the stage's code",
    "stamp": "size and time of the file when it was read",
    "started_at": "when it began, UTC",
    "starts": "start of each window, seconds",
    "step": "step of the optimiser",
    "steps": "steps of the optimiser",
    "successes": "right answers among them; empty for means",
    "table": "the table that was looked at",
    "tail_silence": "silence that it ends with, seconds",
    "take": "number of the take, from 0",
    "taken_down_at": "when, UTC",
    "takes": "clips of this request, each with a seed of its own",
    "temperature": "temperature of sampling; 0 is greedy",
    "threshold": "the most that passes",
    "title": "title",
    "stale": "why its line is refused now, where clips of an earlier order are kept",
    "tokens_per_second": "codes trained on a second",
    "top_k": "sample among the k most likely codes; 0 for all",
    "top_p": "sample among the most likely codes of this mass; 0 for all",
    "track_id": "the recording: SHA-256 of its encoded audio without tags",
    "training_set": "the recordings that it learned from, in `learned`; empty where it learned from none",
    "true_peak": "true peak, dBTP",
    "true_peak_before": "true peak of what the codec gave, dBTP",
    "unit": "unit of the value",
    "uri": "file or URL",
    "value": "what was counted or measured, or a share",
    "versions": "version that it published of each table, by name",
    "warnings": "what was odd about its file, and wrong with its metadata",
    "what": "what was noticed, the same for all things of its kind",
    "zeros": "share of samples that are exactly zero, 0 to 1",
}
"""What a column holds, with its unit; a name means the same in every table."""


def write_reference() -> str:
    """Return `docs/reference.md`: every stage, table, knob, setting and preset."""
    parts = ["# Reference", "Written from the code by `make docs`. Tables first, then every knob that `--set` takes."]
    parts += ["## Tables", "A table lies at `<store>/<table>/version=<fingerprint>/shard=<n>.parquet`."]
    for table in TABLES.values():
        parts += [f"### `{table.name}`", f"One row is {table.about}. Key: `{', '.join(table.key)}`."]
        rows = [[f"`{field.name}`", type_name(field.type), COLUMNS[field.name]] for field in table.schema]
        parts.append(markdown_table(["column", "type", "what it holds"], rows))
    parts += [
        "## Knobs",
        "`--set stage.field=value`; defaults are the published values, from which presets differ.",
    ]
    for name, module in STAGES.items():
        parts.append(f"### Stage `{name}`")
        rows = list(knobs(module.Config, name))
        parts.append(markdown_table(["knob", "values", "default", "meaning"], rows) if rows else "No knobs.")
    parts += ["## Settings", "Where and how a run runs; nothing here changes a result."]
    parts.append(markdown_table(["setting", "values", "default", "meaning"], list(knobs(Settings, "settings"))))
    parts += ["## Presets", "`segue presets` prints what each sets differently."]
    presets = [[f"`{name}`", " ".join((make.__doc__ or "").split())] for name, make in PRESETS.items()]
    parts.append(markdown_table(["preset", "what it is"], presets))
    return "\n\n".join(parts) + "\n"


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Return a table, its cells' bars escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def type_name(kind: pa.DataType) -> str:
    """Return a column's type, short."""
    if pa.types.is_list(kind):
        return f"list of {type_name(kind.value_type)}"
    if pa.types.is_struct(kind):
        return "record"
    if pa.types.is_map(kind):
        return f"map to {type_name(kind.item_type)}"
    return {"string": "text", "double": "float64", "float": "float32"}.get(str(kind), str(kind))


def knobs(model: type[BaseModel], path: str, values: BaseModel | None = None) -> Iterator[list[str]]:
    """Yield a row a knob of a configuration, those of the configurations within it included.

    Args:
        model: the configuration.
        path: what stands before a knob's name.
        values: the configuration that holds by default, where it is not `model()`.
    """
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True) if values is None else getattr(values, name)
        inner = inner_models(field.annotation)
        meaning = " ".join((field.description or "").split())
        shown = "required" if field.is_required() and values is None else shown_default(default)
        yield [f"`{path}.{name}`", values_of(field), shown, meaning]
        for kind in inner:
            below = f"{path}.{name}.<name>" if is_mapping(field.annotation) else f"{path}.{name}"
            yield from knobs(kind, below, default if type(default) is kind else None)


def inner_models(annotation: Any) -> list[type[BaseModel]]:
    """Return the configurations that a field may hold: as they are, in a union or in a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in inner_models(part)]


def is_mapping(annotation: Any) -> bool:
    """Tell whether a field holds a mapping, or may."""
    origin = get_origin(annotation)
    return origin in (Mapping, dict) or any(is_mapping(part) for part in get_args(annotation))


LIMITS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def values_of(field: FieldInfo) -> str:
    """Return the values that a field takes."""
    limits = [
        f"{sign} {getattr(limit, name):g}"
        for limit in field.metadata
        for name, sign in LIMITS.items()
        if hasattr(limit, name)
    ]
    return ", ".join([annotation_name(field.annotation), *limits])


def annotation_name(annotation: Any) -> str:
    """Return a type as a person would say it."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if annotation in (None, type(None)):
        return "null"
    if origin is Annotated:
        return annotation_name(inside[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inside)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(annotation_name(part) for part in inside))
    if is_mapping(annotation):
        return f"map to {annotation_name(inside[-1])}"
    if inside:
        return f"list of {annotation_name(inside[0])}"
    names = {"str": "text", "WeightsRef": "weights", "bool": "true or false"}
    name = getattr(annotation, "__name__", str(annotation))
    return names.get(name, "object" if isinstance(annotation, type) and issubclass(annotation, BaseModel) else name)


def shown_default(value: Any) -> str:
    """Return a default as `--set` would take it; nothing for what holds knobs of its own, or is empty."""
    if value is None:
        return "null"
    if isinstance(value, BaseModel) or value in ({}, (), []):
        return ""
    if isinstance(value, list | tuple):
        return f"`{','.join(map(str, value))}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def stages_table() -> str:
    """Return README's table: a line a stage."""
    rows = []
    for name, module in STAGES.items():
        reads = ", ".join(f"`{table.name}`" for table in module.READS) or "—"
        rows.append([f"`{name}`", reads, f"`{module.WRITES.name}`", first_sentence(Path(str(module.__file__)))])
    return markdown_table(["stage", "reads", "writes", "what it does"], rows)


def first_sentence(module: Path) -> str:
    """Return the first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(module.read_text())) or ""
    return " ".join(re.split(r"(?<=\.)\s", " ".join(text.split()), maxsplit=1)[0].rstrip(".").split())


def source_tree() -> str:
    """Return the source tree, a line a module or package, with the first sentence of its docstring."""
    lines = []
    for layer in ("flows", "stages", "model", "schemas"):
        lines.append(f"{layer}/")
        for path in sorted((ROOT / layer).iterdir()):
            module = path / "__init__.py" if path.is_dir() else path
            if module.suffix == ".py" and module.exists() and path.name != "__init__.py":
                name = f"{path.name}/" if path.is_dir() else path.name
                lines.append(f"    {name:<18} {first_sentence(module)}".rstrip())
    return "\n".join(["```", *lines, "```"])


def answered_queries(store: Store) -> str:
    """Return the queries with a store's answers."""
    parts = []
    for title, sql in QUERIES.items():
        answer = query(store, sql)
        rows = [[str(value) for value in row.values()] for row in answer.to_pylist()]
        parts.append(f"**{title}**\n\n```sql{sql}\n```\n\n{markdown_table(answer.schema.names, rows)}")
    return "\n\n".join(parts)


def draw_figure(name: str, path: Path) -> None:
    """Draw one of the figures of patterns into a file."""
    title, words = FIGURES[name]
    assert run_command(["pattern", *words.split(), "--title", title, "--svg", str(path)]) == 0


def read_section(name: str, text: str) -> str:
    """Return what stands between the marks of a section."""
    section = re.search(rf"<!-- {name}: begin[^>]*-->\n(.*?)<!-- {name}: end -->", text, re.DOTALL)
    assert section, name
    return section.group(1).strip()


def replace_section(page: Path, name: str, new: str) -> None:
    """Write a section of a page anew."""
    pattern = rf"(<!-- {name}: begin[^>]*-->\n).*?(<!-- {name}: end -->)"
    text = re.sub(pattern, lambda marks: f"{marks[1]}{new}\n{marks[2]}", page.read_text(), flags=re.DOTALL)
    page.write_text(text)


SECTIONS = {"stages": (ROOT / "README.md", stages_table), "tree": (DOCS / "architecture.md", source_tree)}
"""The sections that the code alone decides: where they stand, and what makes them."""

if __name__ == "__main__":
    (DOCS / "reference.md").write_text(write_reference())
    for section, (page, make) in SECTIONS.items():
        replace_section(page, section, make())
    for figure in FIGURES:
        draw_figure(figure, DOCS / "patterns" / f"{figure}.svg")
    if len(sys.argv) > 1:
        replace_section(DOCS / "queries.md", "queries", answered_queries(Store(sys.argv[1])))
