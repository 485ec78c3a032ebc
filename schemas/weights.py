"""Weights by name: one place that finds them, fetches them, and insists on what the first use of a name got.

The first use of a reference writes its revision and digest into the table `weights`, and every later use must match. So
a moved tag, a half-finished download or an edited file is an error, not another model under the same name.
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import fsspec
import pyarrow as pa

from schemas.identity import WeightsRef, fingerprint
from schemas.storage.file_store import cache_folder
from schemas.storage.store import Store
from schemas.storage.take_downs import TakeDowns
from schemas.tables import CHECKPOINTS, WEIGHTS, Row

DEMUCS_ROOT = "https://dl.fbaipublicfiles.com/demucs/hybrid_transformer/"
DEMUCS_FILES = {
    "htdemucs": ("955717e8-8726e21a.th",),
    "htdemucs_ft": ("f7e0c4bc-ba3fe64a.th", "d12395a8-e57c48e6.th", "92cfc3b6-ef3bcb9c.th", "04573f0d-f3cf25b2.th"),
}
"""The files of Demucs' published models. Each name ends in the first digits of the file's SHA-256."""

HUB_PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model", "*.th", "*.yaml"]
"""What is fetched of a hub repository: weights that need no unpickling, configuration and vocabulary."""

AUDIOCRAFT_FILES = ["state_dict.bin", "compression_state_dict.bin"]
"""What is fetched of a hub repository that has no safetensors or `.th` weights: AudioCraft's models, which are read
without running the code in them."""


class MissingWeights(ValueError):
    """Weights that a run needs are not there. The message says which, and how to get them."""


class WeightsNotFetched(MissingWeights):
    """Weights that are not on this machine cannot be fetched now.

    Args:
        references: the names of the weights.
        why: what kept them from being fetched.
        fields: the fields of a recipe that name weights.
        perhaps: weights that are also needed if the missing ones turn out to be of a kind that reads them.
    """

    def __init__(
        self,
        references: Sequence[str],
        why: str,
        fields: Mapping[WeightsRef, str] | None = None,
        perhaps: Sequence[str] = (),
    ) -> None:
        named = {str(name): field for name, field in (fields or {}).items() if name in (*references, *perhaps)}
        missing, more = (
            ", ".join(f"{name} ({named[name]})" if name in named else name for name in names)
            for names in (references, perhaps)
        )
        field = next(iter(named.values()), "STAGE.FIELD")
        super().__init__(
            f"missing weights {missing}: {' '.join(why.split())[:200]}; run once with a network, or copy them to this "
            f"machine and give their folder in place of the name, such as --set {field}=/path/to/folder"
            + (f"; depending on their conditions, {more} may also be needed" if perhaps else "")
        )
        self.references, self.why, self.fields = tuple(map(str, references)), why, named
        self.perhaps = tuple(map(str, perhaps))

    def of_fields(self, fields: Mapping[WeightsRef, str]) -> "WeightsNotFetched":
        """Return the same error with the fields that name the weights, for which another name may be given."""
        return WeightsNotFetched(self.references, self.why, fields, self.perhaps)


class NotTrainedYet(MissingWeights):
    """A model of this store still has to be trained, by the stage `trainer` where the run has one."""

    def __init__(self, message: str, trainer: str = "") -> None:
        super().__init__(message)
        self.trainer = trainer


@dataclass(frozen=True)
class LocalWeights:
    """Weights that lie on this machine."""

    reference: str
    path: Path
    """A folder or a file."""
    digest: str
    """SHA-256 of the files, 64 hexadecimal digits."""


class WeightsLibrary:
    """Finds weights for one run.

    Args:
        store: where records of first uses and the store's own checkpoints are.
        recipes: for each kind of checkpoint, the recipe (fingerprint) that this run uses. `checkpoint:<kind>` is the
            newest checkpoint of that recipe, or of any recipe where the run names none.
        offline: never ask the network.
    """

    def __init__(self, store: Store, recipes: Mapping[str, str] | None = None, offline: bool = False) -> None:
        self.store = store
        self.recipes = dict(recipes or {})
        self.offline = offline
        self._known_weights: dict[str, LocalWeights] = {}
        self._rows: dict[tuple[str, str, str], list[Row]] = {}
        """Rows of `checkpoints`, by version, shard and content: a plan asks for the same ones dozens of times."""

    def get(self, reference: WeightsRef) -> LocalWeights:
        """Return the weights of a name, fetching them if necessary.

        Raises:
            NotTrainedYet: the checkpoint still has to be trained by an earlier stage.
            MissingWeights: the weights cannot be found or fetched, or differ from those of the name's first use or from
                those that this store's training wrote.
        """
        if reference.checkpoint is not None:
            return self._checkpoint(reference, reference.checkpoint)
        if reference not in self._known_weights:
            path, revision = self._fetch(reference)
            self._known_weights[reference] = LocalWeights(
                reference, path, self._check_digest(reference, path, revision)
            )
        return self._known_weights[reference]

    def fetch_all(self, references: Iterable[WeightsRef], perhaps: Iterable[WeightsRef] = ()) -> None:
        """Fetch published weights before any work begins, so that everything missing is reported at once.

        Args:
            perhaps: weights that are needed only if some that cannot be fetched turn out to read them. Where any are
                missing, those of `perhaps` that cannot be fetched either are named with them.

        Raises:
            MissingWeights: some cannot be found or fetched.
        """
        missing = self._unfetched(references)
        if missing:  # `_unfetched` has then set `offline`
            more = [reference for reference in self._unfetched(perhaps) if reference not in missing]
            raise WeightsNotFetched(list(missing), next(iter(missing.values())).why, perhaps=more)

    def _unfetched(self, references: Iterable[WeightsRef]) -> dict[str, WeightsNotFetched]:
        """Fetch published weights, and return the error of each that cannot be fetched."""
        missing: dict[str, WeightsNotFetched] = {}
        for reference in references:
            if reference.checkpoint is None:
                try:
                    self.get(reference)
                except WeightsNotFetched as error:
                    missing[reference] = error
                    self.offline = True  # so that only one unreachable host is waited for, not each of them
        return missing

    def checkpoint(self, name: str) -> Row | None:
        """Return the newest row of `checkpoints` of a kind (by this run's recipe) or with an id; None where there is
        none. A model that learned from a recording that was taken down counts as absent.

        Raises:
            MissingWeights: the id is that of such a model.
        """
        rows: list[Row] = []
        recipe = self.recipes.get(name)
        for version in [recipe] if recipe else self.store.versions(CHECKPOINTS):
            for shard in self.store.shards(CHECKPOINTS, version):
                rows += self._rows_of(version, shard)
        rows = [row for row in rows if name in (row["kind"], row["checkpoint_id"])]
        hidden = TakeDowns(self.store).hidden.checkpoint_id if rows else ()
        if any(row["checkpoint_id"] == name for row in rows) and name in hidden:
            raise MissingWeights(
                f"expected a model that learned from no recording that was taken down, got checkpoint:{name}: train "
                "another one and name that (`segue explain` and the table `taken_down` show what it learned from)"
            )
        allowed = [row for row in rows if row["checkpoint_id"] not in hidden]
        return max(allowed, key=lambda row: row["created_at"], default=None)

    def _rows_of(self, version: str, shard: str) -> list[Row]:
        """Return the rows of a shard of `checkpoints`; the file is read again only if its content changed."""
        footer = self.store.footer(CHECKPOINTS, version, shard)
        if footer is None:
            return []
        key = (version, shard, footer.content)
        if key not in self._rows:
            self._rows[key] = self.store.read(CHECKPOINTS, version, [shard]).to_pylist()
        return self._rows[key]

    def _checkpoint(self, reference: WeightsRef, name: str) -> LocalWeights:
        row = self.checkpoint(name)
        if row is None:
            advice = f"to name the folder give ./{name}" if Path(name).is_dir() else "train it first"
            raise NotTrainedYet(f"expected a trained checkpoint {name!r} in {self.store.url}, got none: {advice}")
        return LocalWeights(reference, self._trained(reference, row), row["digest"])

    def _trained(self, reference: WeightsRef, row: Row) -> Path:
        """Return the local path of a checkpoint of this store, after comparing its digest with the one in its row.

        Raises:
            MissingWeights: the files are not there, or some changed.
        """
        path = self.store.local(row["path"])
        if not self.store.is_local and _known_digest(path, _stamp(path)) != row["digest"]:
            shutil.rmtree(path)  # a local copy, perhaps incomplete; the store has the original
            path = self.store.local(row["path"])
        digest = _known_digest(path, _stamp(path)) if path.exists() else ""
        if digest != row["digest"]:
            raise MissingWeights(
                f"expected the weights of {reference} in {self.store.url}/{row['path']} with digest "
                f"{row['digest'][:16]}…, as they were trained, got {f'{digest[:16]}…' if digest else 'nothing there'}: "
                "restore the folder from a copy, or have it made again by `segue check --repair`"
            )
        return path

    def _fetch(self, reference: WeightsRef) -> tuple[Path, str]:
        """Return the local path of the weights and their revision (empty where the source has none)."""
        if reference.demucs is not None:
            return self._demucs(reference, reference.demucs), ""
        if "://" in reference:
            return self._download(reference, reference), ""
        path = Path(reference).expanduser()
        if path.exists():
            return path, ""
        if path.is_absolute() or reference.startswith((".", "~")):
            raise MissingWeights(f"expected weights at {reference}, got nothing there: give an existing file or folder")
        return self._hub(reference)

    def _demucs(self, reference: WeightsRef, model: str) -> Path:
        if model not in DEMUCS_FILES:
            raise MissingWeights(f"expected a Demucs model of {sorted(DEMUCS_FILES)}, got {model!r}")
        folder = cache_folder() / "weights" / f"demucs-{model}"
        for name in DEMUCS_FILES[model]:
            if not (folder / name).exists():
                file = self._download(DEMUCS_ROOT + name, reference)
                folder.mkdir(parents=True, exist_ok=True)
                os.replace(file, folder / name)
        return folder

    def _download(self, url: str, reference: str) -> Path:
        target = (
            cache_folder()
            / "weights"
            / hashlib.sha256(url.encode()).hexdigest()[:16]
            / url.rstrip("/").rsplit("/", 1)[-1]
        )
        if target.exists():
            return target
        if self.offline:
            raise WeightsNotFetched([reference], "the run is offline")
        temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}.inprogress")
        temporary.parent.mkdir(parents=True, exist_ok=True)
        try:
            filesystem, path = fsspec.core.url_to_fs(url)
            filesystem.get(path, str(temporary), recursive=bool(filesystem.isdir(path)))
            os.replace(temporary, target)
        except Exception as error:  # every protocol raises its own errors
            raise WeightsNotFetched([reference], f"{type(error).__name__}: {error}") from error
        return target

    def _hub(self, reference: str) -> tuple[Path, str]:
        from huggingface_hub import hf_hub_download, snapshot_download

        name, _, revision = reference.partition("@")
        parts = name.split("/")
        repository, file = "/".join(parts[:2]), "/".join(parts[2:])
        recorded = self._recorded(reference)
        wanted = (recorded["revision"] if recorded else None) or revision or None
        try:
            if file:
                downloaded = hf_hub_download(repository, file, revision=wanted, local_files_only=self.offline)
            else:
                downloaded = snapshot_download(
                    repository, revision=wanted, allow_patterns=HUB_PATTERNS, local_files_only=self.offline
                )
                if not any(path.suffix in (".safetensors", ".th") for path in Path(downloaded).rglob("*")):
                    downloaded = snapshot_download(
                        repository, revision=wanted, allow_patterns=AUDIOCRAFT_FILES, local_files_only=self.offline
                    )
        except Exception as error:  # the hub's client raises many kinds of errors for what is not there
            raise WeightsNotFetched([reference], _why_of_hub(error, repository, self.offline)) from error
        snapshot = Path(downloaded).parents[len(parts) - 3] if file else Path(downloaded)
        return Path(downloaded), snapshot.name

    def _recorded(self, reference: str) -> Row | None:
        rows = self.store.read(WEIGHTS, "1", shards=[fingerprint(str(reference))]).to_pylist()
        return rows[0] if rows else None

    def _check_digest(self, reference: str, path: Path, revision: str) -> str:
        """Return the digest. It is computed only if the files changed since it was recorded, and recorded on first
        use.

        Raises:
            MissingWeights: the digest differs from the recorded one.
        """
        recorded, stamp = self._recorded(reference), _stamp(path)
        if recorded and recorded["stamp"] == stamp:
            return str(recorded["digest"])
        digest, size = _digest(path)
        if recorded and recorded["digest"] != digest:
            shard = self.store.shard_path(WEIGHTS, "1", fingerprint(str(reference)))
            raise MissingWeights(
                f"expected the weights {reference} with digest {recorded['digest'][:16]}…, as first used in this "
                f"store, got {digest[:16]}…: restore them, give them another name, or remove {shard} to accept them"
            )
        row = {"reference": str(reference), "revision": revision, "digest": digest, "stamp": stamp, "bytes": size}
        rows = pa.Table.from_pylist([row], schema=WEIGHTS.schema)
        self.store.write_shard(WEIGHTS, "1", fingerprint(str(reference)), rows, input_key=fingerprint(str(reference)))
        return digest


HUB_ANSWERS = {
    "GatedRepoError": "the hub gives {} only if its terms are accepted: accept them on its page, then `hf auth login`",
    "RepositoryNotFoundError": "the hub has no {}, or shows it only to its owners: is the name right?",
    "RevisionNotFoundError": "the hub has {}, but no such revision",
    "RemoteEntryNotFoundError": "the hub has {}, but no such file",
    "EntryNotFoundError": "the hub has {}, but no such file",
}
"""What the errors of the hub's client mean, by class name."""


def _why_of_hub(error: Exception, repository: str, offline: bool) -> str:
    """Return what kept a repository from being fetched, as a sentence."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    name = type(error).__name__
    if name in HUB_ANSWERS:
        return HUB_ANSWERS[name].format(repository)
    if HF_HUB_OFFLINE:
        return "not on this machine, and HF_HUB_OFFLINE keeps it off the network"
    return "not on this machine, and the run is offline" if offline else f"the hub cannot be reached, {name}"


def folder_digest(path: Path) -> str:
    """Return the SHA-256 over the names and contents of a file or of a folder's files."""
    return _digest(path)[0]


@cache
def _known_digest(path: Path, stamp: str) -> str:
    """Return the digest of a file or folder whose stamp is `stamp`. It is computed once for each process and stamp."""
    return _digest(path)[0]


def _members(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))


def _stamp(path: Path) -> str:
    """Return a hash that changes whenever a file's name, size or time does: cheap, where a digest reads gigabytes."""
    facts = []
    for file in _members(path):
        status = file.stat()
        facts.append([file.name, status.st_size, status.st_mtime_ns])
    return fingerprint(facts)


def _digest(path: Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    for file in _members(path):
        name = file.name if path.is_file() else file.relative_to(path).as_posix()
        digest.update(f"{len(name)}:{name}:{file.stat().st_size}:".encode())
        with open(file, "rb") as handle:
            while block := handle.read(1 << 22):
                digest.update(block)
                size += len(block)
    return digest.hexdigest(), size
