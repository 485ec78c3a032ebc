"""Licences: what people write for one, as one name each, and a policy over those names.

A licence comes as an SPDX identifier, as a URL of creativecommons.org, in words, or as a sentence around any of these.
Each form of one licence has one name here: SPDX's (https://spdx.org/licenses). What is not understood for certain has
none, and a policy says what becomes of it: a licence that is guessed is worse than one that is asked for.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Literal

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from pydantic import field_validator

from schemas.config import Config

PUBLIC_DOMAIN, ALL_RIGHTS_RESERVED = "LicenseRef-public-domain", "LicenseRef-all-rights-reserved"
"""What SPDX has no identifier for, in SPDX's form for such."""

_URL = re.compile(
    r"creativecommons\.org/(?:licen[sc]es/(?P<parts>[a-z+-]+)(?:/(?P<version>\d\.\d))?(?:/(?P<port>[a-z]{2,3})\b)?"
    r"|publicdomain/(?P<tool>zero|mark)\b)"
)
_SPDX_URL = re.compile(r"spdx\.org/licenses/([\w.+-]+?)(?:\.html|\.json)?(?=$|[\s),;])")
_VERSION = re.compile(r"(-\d+(?:\.\d+)*)(-[A-Z]{2,3})?$")

_ELEMENTS = {
    "BY": ("by", "attribution"),
    "NC": ("nc", "noncommercial"),
    "ND": ("nd", "noderivatives", "noderivs", "noderivative"),
    "SA": ("sa", "sharealike"),
}
"""The elements of a Creative Commons licence, in the order of SPDX's identifiers, and the words for each."""

_FILLERS = frozenset(
    {"cc", "creativecommons", "licence", "license", "licensed", "under", "a", "the", "version", "v", "international"}
    | {"unported", "generic"}
)
"""Words that may stand beside the elements and say nothing besides."""

_JOINED = {
    "creative commons": "creativecommons",
    "non commercial": "noncommercial",
    "share alike": "sharealike",
    "no derivative works": "noderivatives",
    "no derivatives": "noderivatives",
    "no derivs": "noderivs",
}
"""Words that are written apart or together."""

_COMBINATIONS = frozenset({"BY", "BY-SA", "BY-NC", "BY-NC-SA", "BY-ND", "BY-NC-ND", "SA", "NC", "ND", "NC-SA", "NC-ND"})
"""The licences that Creative Commons has published; those without BY are of version 1.0."""


@dataclass(frozen=True)
class Licence:
    """A licence by its name."""

    name: str
    """SPDX's identifier, without a version where none was given; a text that is not understood, in lower case."""
    is_known: bool
    """Whether it was understood."""

    @property
    def names(self) -> tuple[str, ...]:
        """The name as it is, without the country that it was adapted to, and without its version: `CC-BY-3.0-US`,
        `CC-BY-3.0`, `CC-BY`."""
        match = _VERSION.search(self.name) if self.is_known else None
        if match is None:
            return (self.name,)
        family = self.name[: match.start()]
        return tuple(dict.fromkeys((self.name, family + match[1], family)))


@lru_cache(maxsize=4096)
def parse_licence(text: str | None) -> Licence | None:
    """Read what somebody wrote for a licence; None where nothing was written."""
    plain = " ".join(unicodedata.normalize("NFKC", text or "").split())
    if not plain:
        return None
    lower = plain.lower()
    name = _of_url(plain, lower) or _of_identifier(plain) or _of_words(lower)
    return Licence(name, True) if name else Licence(lower, False)


def count_licences(texts: Iterable[str | None]) -> Counter[str]:
    """Count licences by their one name; `none` is where nothing was written."""
    licences = map(parse_licence, texts)
    return Counter("none" if licence is None else licence.name for licence in licences)


def _of_url(plain: str, lower: str) -> str | None:
    """Read a licence's address, wherever in a sentence it stands; None where there is none, or several that differ."""
    names = set()
    for match in _URL.finditer(lower):
        if match["tool"]:
            names.add("CC0-1.0" if match["tool"] == "zero" else PUBLIC_DOMAIN)
        elif match["parts"] == "publicdomain":
            names.add(PUBLIC_DOMAIN)
        else:
            parts = "-".join(element for element in _ELEMENTS if element.lower() in match["parts"].split("-"))
            port = f"-{match['port'].upper()}" if match["port"] and match["port"] != "deed" else ""
            names.add(f"CC-{parts}-{match['version']}{port}" if match["version"] else f"CC-{parts}")
    names |= {name for match in _SPDX_URL.finditer(plain) if (name := _of_identifier(match[1]))}
    return names.pop() if len(names) == 1 else None


def _of_identifier(text: str) -> str | None:
    """Read one SPDX identifier; an expression of several is not one licence."""
    if " " in text:
        return None
    try:
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        return None


def _of_words(text: str) -> str | None:
    """Read a licence in words, every one of which must be understood."""
    if "all rights reserved" in text:
        return ALL_RIGHTS_RESERVED
    words = " ".join(re.findall(r"\d+(?:\.\d+)?|[^\W\d_]+\d?(?!\.)|[^\W\d_]+", text))
    for phrase, word in _JOINED.items():
        words = words.replace(phrase, word)
    if words in ("public domain", "publicdomain", "pd", "public domain mark", "public domain mark 1.0"):
        return PUBLIC_DOMAIN
    if re.fullmatch(r"(cc ?0|(cc|creativecommons) zero)( 1\.0)?( universal)?( public domain dedication)?", words):
        return "CC0-1.0"
    return _of_elements(words.split())


def _of_elements(words: Sequence[str]) -> str | None:
    """Read the words of a Creative Commons licence, such as `cc by nc 4.0`."""
    named = [element for word in words for element, forms in _ELEMENTS.items() if word in forms]
    versions = [word for word in words if re.fullmatch(r"\d(\.\d)?", word)]
    others = [word for word in words if word not in versions and not any(word in forms for forms in _ELEMENTS.values())]
    cc_words = {"cc", "creativecommons", "attribution"} & set(words)
    parts = "-".join(element for element in _ELEMENTS if element in named)
    if not cc_words or set(others) - _FILLERS or len(versions) > 1 or parts not in _COMBINATIONS:
        return None
    if not versions:
        return f"CC-{parts}"
    return f"CC-{parts}-{versions[0] if '.' in versions[0] else f'{versions[0]}.0'}"


class LicencePolicy(Config):
    """Which licences a recording may have to be a track and to be learned from. Without `allow`, `deny` and `refuse`
    nothing is asked."""

    allow: tuple[str, ...] = ()
    """The only licences that pass: by name in any form (`CC-BY-4.0`, `CC BY 4.0`, a URL), of all versions where none is
    given (`CC-BY`), or by a pattern over SPDX's names (`CC-BY-*`, which takes in CC-BY-NC too). None means all."""
    deny: tuple[str, ...] = ()
    """Licences that do not pass, whatever `allow` says; written the same way (`*-NC-*`)."""
    unknown: Literal["refuse", "warn"] = "warn"
    """What becomes of a recording with no licence, or with one that is not understood and that neither list names."""

    @field_validator("allow", "deny", mode="before")
    @classmethod
    def _split_text(cls, value: Any) -> Any:
        """Take a text as a command line gives it: licences between commas."""
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("allow", "deny")
    @classmethod
    def _no_empty_licence(cls, licences: tuple[str, ...]) -> tuple[str, ...]:
        if any(not licence.strip() for licence in licences):
            raise ValueError(f"expected licences by name, such as CC-BY-4.0, got an empty one in {licences}")
        return licences

    @property
    def asks(self) -> bool:
        """Whether it asks anything of a recording."""
        return bool(self.allow or self.deny or self.unknown == "refuse")

    def refusal(self, text: str | None) -> str | None:
        """Return why a recording with such a licence does not pass, as a sentence; None where it does."""
        licence = parse_licence(text)
        shown = repr(text[:80]) if text else "none"
        if licence is not None:
            denied = next((entry for entry in self.deny if _covers(entry, licence)), None)
            if denied is not None:
                return f"expected a licence that licences.deny does not name, got {shown}, which is {denied}"
            if any(_covers(entry, licence) for entry in self.allow):
                return None
        if licence is None or not licence.is_known:
            if self.unknown == "warn":
                return None
            return f"expected a licence that is known (licences.unknown = refuse), got {shown}"
        if not self.allow:
            return None
        return f"expected a licence of licences.allow ({', '.join(self.allow)}), got {shown}"

    def is_unknown(self, text: str | None) -> bool:
        """Return whether a licence passes only because `unknown` lets it."""
        licence = parse_licence(text)
        if licence is not None and (licence.is_known or any(_covers(entry, licence) for entry in self.allow)):
            return False
        return self.asks and self.unknown == "warn" and self.refusal(text) is None


def _covers(entry: str, licence: Licence) -> bool:
    """Return whether an entry of a policy means a licence."""
    if "*" in entry or "?" in entry:
        return licence.is_known and fnmatchcase(licence.name.lower(), entry.strip().lower())
    meant = parse_licence(entry)
    return meant is not None and meant.name in licence.names and meant.is_known == licence.is_known
