"""`segue verify`: what a sound file claims about how it was made, and whether the claims hold."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.commands.delivered_files import DeliveredFiles, is_sound
from flows.commands.known_files import CLAIMED, find_file
from flows.commands.options import UsageError, existing_store
from flows.commands.watermarks import Finding, WatermarkSearch
from flows.console import say

if TYPE_CHECKING:
    from schemas import Store
    from schemas.storage.versions import Version, Versions
    from schemas.tables import Row
    from stages.audio.credentials import Anchor, SignedClaim
    from stages.pipeline.contract import Context

app = typer.Typer()

_Answers = dict[str, list[Finding]]
"""Findings by file."""

ONE_STEP = 1 / 2**15
"""How much samples may differ if another kind of processor decoded them: one step of 16 bits, as a share of full
scale."""


@app.command()
def verify(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Sound files, or the folder of a delivery.")],
    trust: Annotated[
        list[Path] | None, typer.Option(help="A PEM file with trusted root certificates. Repeatable.")
    ] = None,
    watermark: Annotated[
        str | None,
        typer.Option(metavar="DETECTOR", help="Look for a watermark with this network: a file, a hub id or a URL."),
    ] = None,
    store: Annotated[
        str | None, typer.Option("--store", help="Also look the files up in this store: a folder or URL.")
    ] = None,
    render: Annotated[
        bool, typer.Option("--render", help="Generate the clip's codes again, decode them, and compare.")
    ] = False,
    format: Annotated[Literal["text", "json"], typer.Option(help="The output format.")] = "text",
) -> int:
    """Show what files claim about how they were made, and whether that is true."""
    opened = existing_store(store) if store is not None or render else None
    if render:
        from flows.runs.output import be_quiet

        be_quiet()  # before anything imports transformers, which looks only once
    answers: dict[Path, _Answers] = {}
    try:
        anchors = _anchors(trust or [])
        look, delivered = WatermarkSearch(watermark, opened), DeliveredFiles()

        def answer(file: Path) -> list[Finding]:
            checked = delivered.findings(file)
            if checked and not (is_sound(file) and file.exists()):
                return checked
            return [*checked, *_verify(file, anchors, opened, render), *look.findings(file)]

        for place in files:
            names = delivered.files(place) if place.is_dir() else [place]
            answers[place] = {str(file): answer(file) for file in names}
    except FileNotFoundError as error:
        raise UsageError(f"expected a sound or the folder of a delivery, got nothing at {error.filename}") from error
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    every = {file: findings for each in answers.values() for file, findings in each.items()}
    if format == "json":
        print(json.dumps({file: [asdict(each) for each in findings] for file, findings in every.items()}, indent=2))
    else:
        for place, each in answers.items():
            if place.is_dir():
                _print_folder(place, each)
            else:
                _print_answers(each)
    return int(any(map(_fails, every.values())))


def _print_answers(answers: _Answers) -> None:
    for file, findings in answers.items():
        print(file)
        for each in findings:
            say(f"    {each.verdict:5}  {each.subject}: {each.words}", hang=7)


def _print_folder(folder: Path, answers: _Answers) -> None:
    """Print, for a delivery, only the files with failures, then a line of totals."""
    failing = {file: findings for file, findings in answers.items() if _fails(findings)}
    _print_answers(failing)
    unlisted = sum(
        each.subject == "checksum" and each.verdict == "note" for findings in answers.values() for each in findings
    )
    sounds = sum(is_sound(Path(file)) for file in answers)
    note = f", {unlisted:,} of them not in its checksums" if unlisted else ""
    outcome = f"{len(failing):,} with failures" if failing else "all claims about them hold"
    say(f"{folder}: {len(answers):,} files, {sounds:,} sounds{note}: {outcome}")


def _fails(findings: Sequence[Finding]) -> bool:
    return any(each.verdict == "fails" for each in findings)


def _anchors(files: Sequence[Path]) -> "list[Anchor]":
    """Return the trusted roots: those given, and the root of this machine's development certificate, if there is
    one."""
    from stages.audio.credentials import Anchor
    from stages.audio.credentials.certificates import development_place

    own = development_place() / "root.pem"
    return [anchor for file in (*files, *([own] if own.exists() else [])) for anchor in Anchor.read(file)]


def _verify(path: Path, anchors: "Sequence[Anchor]", store: "Store | None", render: bool) -> list[Finding]:
    """Return the findings about one file.

    Args:
        store: also look the file up in this store; None looks it up nowhere.
        render: also generate and decode the clip's codes again, and compare.
    """
    from stages.audio.containers import container_of
    from stages.audio.credentials import read_credentials
    from stages.audio.marks import read_own_tags

    with path.open("rb") as file:
        tags = read_own_tags(file)
        claim = read_credentials(file, container_of(file), anchors)
        findings = [*_marks(file), *_signature(claim, tags), *_agreement(claim, tags)]
    if store is not None:
        data = path.read_bytes()
        signed = claim.generation if claim is not None and not claim.problems else {}
        known = find_file(store, data, tags | {name: str(value) for name, value in signed.items()})
        findings += known.findings
        if render and known.clip is not None:
            findings += _made_again(store, known.clip, known.sound)
    return findings


def _marks(file: IO[bytes]) -> Iterator[Finding]:
    from stages.audio.marks import read_marks

    marks = read_marks(file)
    terms = {mark.term for mark in marks}
    named = ", ".join(f"{mark.term} ({mark.place})" for mark in marks)
    if not marks:
        yield Finding("marks", "fails", "none: the file does not say how it was made, or its marks were removed")
    elif len(terms) > 1:
        yield Finding("marks", "fails", f"they disagree: {named}")
    else:
        yield Finding("marks", "holds", named)


def _signature(claim: "SignedClaim | None", tags: dict[str, str]) -> Iterator[Finding]:
    from stages.audio.marks import CREDENTIALS_TAG

    if claim is None and CREDENTIALS_TAG in tags:
        words = "the file says that it was signed, but has no signature: encoded again, or the signature was removed"
        yield Finding("signature", "fails", words)
    elif claim is None:
        yield Finding("signature", "note", "none, so that nothing in the file shows whether it was changed")
    elif claim.problems:
        yield from (Finding("signature", "fails", problem) for problem in claim.problems)
    elif not claim.trusted_by:
        words = f"valid, by {claim.signer!r}, but no trusted root vouches for it: give the signer's root by --trust"
        yield Finding("signature", "fails", words)
    else:
        words = f"valid, by {claim.signer!r}, and the trusted root {claim.trusted_by!r} vouches for it"
        yield Finding("signature", "holds", words)


def _agreement(claim: "SignedClaim | None", tags: dict[str, str]) -> Iterator[Finding]:
    """Compare the signed claim with the tags; yield nothing if there is no valid claim."""
    if claim is None or claim.problems or not claim.generation:
        return
    names = [name for name in CLAIMED if name in claim.generation]
    signed = {name: str(claim.generation[name]) for name in names}
    others = [f"{name} {tags[name]} in the tags" for name in signed if tags.get(name, signed[name]) != signed[name]]
    signed_facts = ", ".join(f"{name} {value}" for name, value in signed.items())
    words = f"{claim.generator}, model {claim.generation.get('model')}: {signed_facts}"
    yield Finding("claim", "fails" if others else "holds", "; ".join([words, *others]))


@dataclass(frozen=True)
class _Origin:
    """What a clip was made from."""

    fingerprint: str
    """The version of `clips` that the clip belongs to."""
    version: "Version"
    generation: "Row"
    """The codes of the try that the gate chose."""
    request: "Row"


def _made_again(store: "Store", clip: "Row", sound: bytes) -> Iterator[Finding]:
    """Generate a clip's codes again, decode the codes that it has, and compare both with what the store has.

    Args:
        sound: the bytes of the file with the clip's samples.
    """
    try:
        origin = _origin(store, clip)
    except ValueError as error:
        yield Finding("render", "fails", f"the clip cannot be made again: {error}")
        return
    yield _generated(store, origin)
    yield _rendered(store, origin, sound)


def _generated(store: "Store", origin: _Origin) -> Finding:
    """Generate a clip's codes again, with its model, request and seed, and compare them with the codes that it has."""
    import numpy as np

    from schemas.storage.versions import Versions
    from schemas.tables import GENERATIONS
    from stages.checkpoints.generation_config import GenerationConfig
    from stages.gate.retaking import Retaker

    fingerprint = origin.version.inputs[GENERATIONS.name]
    try:
        version = _version(Versions(store), fingerprint)
        config = GenerationConfig.model_validate(_with_references(store, version.config))
        retaker = Retaker(config, _context(store, "generate", fingerprint, version))
        retaker.read_conditions(origin.request)
        ((_, again),) = retaker.generate([origin.request], [origin.generation["seed"]])
    except ValueError as error:
        return Finding("codes", "note", f"they cannot be generated again here: {error}")
    ours, theirs = again.numpy(), np.array(origin.generation["codes"])
    if ours.shape != theirs.shape:
        return Finding("codes", "fails", f"its seed gives {ours.shape[1]:,} frames, the clip has {theirs.shape[1]:,}")
    differing = np.flatnonzero((ours != theirs).any(axis=0))
    if not len(differing):
        return Finding(
            "codes", "holds", f"generated again from model, request and seed: all {ours.shape[1]:,} frames are equal"
        )
    begin = int(origin.generation["prompt_frames"] or 0)
    frame = f"{differing[0] + 1:,} of {ours.shape[1]:,}"
    words = f"generated again from model, request and seed: they differ from frame {frame} on"
    if differing[0] <= begin:
        return Finding("codes", "fails", words)
    return Finding("codes", "note", f"{words}; on another kind of processor one rounding error changes all later codes")


def _rendered(store: "Store", origin: _Origin, sound: bytes) -> Finding:
    """Decode a clip's codes again, and compare the samples with those of a file.

    Args:
        sound: the bytes of the file.
    """
    import io

    import numpy as np
    import soundfile

    try:
        data = _render(store, origin)
    except ValueError as error:
        return Finding("render", "fails", f"the clip cannot be made again: {error}")
    ours = soundfile.read(io.BytesIO(data), dtype="float64", always_2d=True)[0]
    theirs = soundfile.read(io.BytesIO(sound), dtype="float64", always_2d=True)[0]
    if ours.shape != theirs.shape:
        words = f"decoded again, its codes give {len(ours):,} samples, the file has {len(theirs):,}"
        return Finding("render", "fails", words)
    difference = float(np.abs(ours - theirs).max(initial=0.0))
    if difference == 0:
        return Finding("render", "holds", "decoded again: the same samples, bit for bit")
    if difference <= 1.01 * ONE_STEP:
        return Finding("render", "holds", "decoded again: the same samples within one step, as on another processor")
    return Finding("render", "fails", f"decoded again: the samples differ by up to {difference:.4f} of full scale")


def _render(store: "Store", origin: _Origin) -> bytes:
    """Return the file of a clip decoded again, unsigned, with the configuration that it was made with.

    Raises:
        ValueError: something that it was made with no longer exists.
    """
    from stages import decode

    config = decode.Config.model_validate(_with_references(store, origin.version.config) | {"credentials": None})
    context = _context(store, "decode", origin.fingerprint, origin.version)
    return decode.render_again(config, context, origin.generation, origin.request).data


def _origin(store: "Store", clip: "Row") -> _Origin:
    """Find what a row of `clips` was made from.

    Raises:
        ValueError: it no longer exists.
    """
    import pyarrow.compute as pc

    from schemas.storage.versions import Versions
    from schemas.tables import GENERATIONS, REQUESTS, VERDICTS
    from stages.judging.tries import chosen_try

    fingerprint = clip["path"].split("version=", 1)[1].split("/", 1)[0]
    version = _version(Versions(store), fingerprint)
    rows: dict[str, Row] = {}
    for table, key in (
        (VERDICTS, ("request_id", "take")),
        (GENERATIONS, ("request_id", "take")),
        (REQUESTS, ("request_id",)),
    ):
        if table.name not in version.inputs:
            continue  # clips of releases without a gate have no verdict
        matches = store.read(table, version.inputs[table.name])
        for name in key:
            matches = matches.filter(pc.equal(matches[name], clip[name]))
        if not matches.num_rows:
            raise ValueError(f"expected its row in {table.name}, got none")
        rows[table.name] = matches.to_pylist()[0]
    generation = rows[GENERATIONS.name]
    if VERDICTS.name in rows:
        generation = chosen_try(rows[VERDICTS.name], generation)
    return _Origin(fingerprint, version, generation, rows[REQUESTS.name])


def _version(versions: "Versions", fingerprint: str) -> "Version":
    """Return the record of a version.

    Raises:
        ValueError: the store has no record of it.
    """
    version = versions.all.get(fingerprint)
    if version is None:
        raise ValueError(f"expected the version {fingerprint} in the table versions, got none")
    return version


def _context(store: "Store", stage: str, fingerprint: str, version: "Version") -> "Context":
    from schemas import Settings
    from schemas.weights import WeightsLibrary
    from stages.pipeline.contract import Context

    settings = Settings(store=store.url, device="cpu")
    return Context(store, settings, "verify", stage, fingerprint, version.inputs, WeightsLibrary(store))


def _with_references(store: "Store", config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stage's configuration with the names of its weights in place of their digests.

    Raises:
        ValueError: the store does not know the name of some weights.
    """
    return {name: _with_reference(store, value) for name, value in config.items()}


def _with_reference(store: "Store", value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return _reference(store, value["weights"]) if value.keys() == {"weights"} else _with_references(store, value)


def _reference(store: "Store", digest: str) -> str:
    """Return the name of weights with a digest.

    Raises:
        ValueError: the store does not know their name.
    """
    from schemas.tables import CHECKPOINTS, WEIGHTS

    for row in store.read_all(CHECKPOINTS).to_pylist():
        if row["digest"] == digest:
            return f"checkpoint:{row['checkpoint_id']}"
    for row in store.read_all(WEIGHTS).to_pylist():
        if row["digest"] == digest:
            return str(row["reference"])
    raise ValueError(f"expected the weights with the digest {digest[:16]}… in the store, got none")
