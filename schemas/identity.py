"""Identity: what makes two artifacts the same one.

A fingerprint is the hash of canonical JSON, so it is the same in every process, on every machine and in every order of
the fields. A value without a stable JSON form raises an error; its memory address or repr never becomes an identity.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from schemas.config import Config

FINGERPRINT_LENGTH = 16
"""Hexadecimal digits of a fingerprint: 64 bits, enough for the few hundred versions of a store without collision."""


_HUB_MODEL = re.compile(r"\w[\w.-]*/\w[\w.-]*")
"""The form of a model's name on the hub: owner and name."""


class WeightsRef(str):
    """The name of weights: a hub id (`org/name`, `org/name@revision`, `org/name/file`), `demucs:<model>`, a local path,
    an fsspec URL, or `checkpoint:<kind or id>` for a model that this store has trained.

    Its identity is the digest of the weights that it names, never the name: the same files under another path are the
    same weights, and other files under the same name are not.
    """

    __slots__ = ()

    @classmethod
    def to_checkpoint(cls, name: str) -> Self:
        """Return the reference to a model that the store has trained, by its kind or id."""
        return cls(f"checkpoint:{name}")

    @property
    def checkpoint(self) -> str | None:
        """The kind or id that `checkpoint:` names; None for weights from elsewhere."""
        return self.removeprefix("checkpoint:") if self.startswith("checkpoint:") else None

    @property
    def demucs(self) -> str | None:
        """The model that `demucs:` names; None for other weights."""
        return self.removeprefix("demucs:") if self.startswith("demucs:") else None

    @property
    def hub_model(self) -> str | None:
        """The model on the hub, without a revision; None for a file on the hub and for weights from elsewhere."""
        name = self.partition("@")[0]
        return name if _HUB_MODEL.fullmatch(name) and not Path(name).exists() else None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema(min_length=1))


def weights_in(value: Any) -> list[WeightsRef]:
    """Return every `WeightsRef` in a Config (or a mapping, list or tuple of them), in order, each once."""
    return list(weights_fields(value))


def weights_fields(value: Any, where: str = "") -> dict[WeightsRef, str]:
    """Return every `WeightsRef` in `value`, with the dotted name of the first field that names it.

    Args:
        value: a Config, or a mapping, list or tuple of them.
        where: the dotted name of `value` itself.
    """
    if isinstance(value, WeightsRef):
        return {value: where}
    if isinstance(value, BaseModel):
        items: Mapping[Any, Any] = {name: getattr(value, name) for name in type(value).model_fields}
    elif isinstance(value, Mapping):
        items = value
    elif isinstance(value, list | tuple):
        items = dict(enumerate(value))
    else:
        items = {}
    fields: dict[WeightsRef, str] = {}
    for name, item in items.items():
        for reference, field in weights_fields(item, f"{where}.{name}" if where else str(name)).items():
            fields.setdefault(reference, field)
    return fields


def canonical(value: Any, digests: Mapping[str, str] | None = None) -> str:
    """Return the canonical JSON of `value`: sorted keys, no spaces, and for each `WeightsRef` its digest in `digests`.

    Raises:
        ValueError: the value, or something in it, has no stable identity (an object, a set, NaN, bytes, a function, or
            weights without a digest in `digests`).
    """
    return json.dumps(_plain(value, "value", digests or {}), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _plain(value: Any, where: str, digests: Mapping[str, str]) -> Any:
    if isinstance(value, WeightsRef):
        if value not in digests:
            raise ValueError(f"expected the digest of the weights {str(value)!r} at {where}, got none")
        return {"weights": digests[value]}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"expected a finite number at {where}, got {value}: it has no stable identity")
        return value
    if isinstance(value, BaseModel):
        outside = value.NOT_IDENTITY if isinstance(value, Config) else ()
        names = [name for name in type(value).model_fields if name not in outside]
        return {name: _plain(getattr(value, name), f"{where}.{name}", digests) for name in names}
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise ValueError(f"expected text keys at {where}, got {wrong[0]!r}")
        return {key: _plain(item, f"{where}.{key}", digests) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{position}]", digests) for position, item in enumerate(value)]
    raise ValueError(
        f"expected text, a number, a list, a mapping or a Config at {where}, got {type(value).__name__}: "
        "it has no stable identity"
    )


def fingerprint(value: Any, digests: Mapping[str, str] | None = None) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of `canonical(value, digests)`."""
    return hashlib.sha256(canonical(value, digests).encode()).hexdigest()[:FINGERPRINT_LENGTH]


def stage_fingerprint(
    stage: str, version: int, config: BaseModel, digests: Mapping[str, str], upstream: Mapping[str, str]
) -> str:
    """Return the version that a stage writes: the hash of its name, its VERSION, its configuration with the digests of
    the weights that it loads, and the fingerprints of the tables that it reads (by table name)."""
    return fingerprint({"stage": stage, "version": version, "config": config, "upstream": upstream}, digests)


def keys_digest(keys: Iterable[tuple[str, ...]]) -> str:
    """Return a digest of a set of keys that does not depend on their order."""
    # The same text as `json.dumps` of each key, in a fifth of the time: this runs for every shard read or written.
    texts = (f"[{', '.join(map(encode_basestring_ascii, key))}]" for key in sorted(keys))
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:FINGERPRINT_LENGTH]


def by_hash(key: str) -> bytes:
    """Return the SHA-256 of a key. Sorting by it gives an order that depends neither on names nor on times, and in
    which new keys do not change the order of old ones."""
    return hashlib.sha256(key.encode()).digest()


def hold_out(track_ids: Sequence[str], share: float) -> frozenset[str]:
    """Choose the tracks to hold out where the split `valid` is empty: a share of the training tracks by hash, at least
    one of them, but none where there is only one track."""
    if len(track_ids) < 2:
        return frozenset()
    count = max(1, round(share * len(track_ids)))
    return frozenset(sorted(track_ids, key=by_hash)[:count])
