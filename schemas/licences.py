"""Licences: what people write for one, as one name each, and a policy over those names.

A licence comes as an SPDX identifier, as a URL of creativecommons.org, in words, or in a sentence around any of these.
All forms of one licence get one name here: SPDX's (https://spdx.org/licenses). A text that is not understood for
certain gets no name, and a policy decides what happens to it: a guessed licence is worse than an unknown one.
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
"""Names for what SPDX has no identifier for, in the form that SPDX reserves for such names."""

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
"""The elements of a Creative Commons licence, in the order of SPDX's identifiers, with the words that mean each."""

_FILLERS = frozenset(
    {"cc", "creativecommons", "licence", "license", "licensed", "under", "a", "the", "version", "v", "international"}
    | {"unported", "generic"}
)
"""Words that may stand beside the elements and add no meaning."""

_JOINED = {
    "creative commons": "creativecommons",
    "non commercial": "noncommercial",
    "share alike": "sharealike",
    "no derivative works": "noderivatives",
    "no derivatives": "noderivatives",
    "no derivs": "noderivs",
}
"""Phrases that are also written as one word, and that word."""

_COMBINATIONS = frozenset({"BY", "BY-SA", "BY-NC", "BY-NC-SA", "BY-ND", "BY-NC-ND", "SA", "NC", "ND", "NC-SA", "NC-ND"})
"""The licences that Creative Commons has published; those without BY are of version 1.0."""


@dataclass(frozen=True)
class Licence:
    """A licence under its one name."""

    name: str
    """SPDX's identifier, without a version where none was given; for a text that is not understood, that text in lower
    case."""
    is_known: bool
    """Whether the text was understood."""

    @property
    def names(self) -> tuple[str, ...]:
        """The full name, then the name without its country, then also without its version: `CC-BY-3.0-US`,
        `CC-BY-3.0`, `CC-BY`."""
        match = _VERSION.search(self.name) if self.is_known else None
        if match is None:
            return (self.name,)
        family = self.name[: match.start()]
        return tuple(dict.fromkeys((self.name, family + match[1], family)))


@lru_cache(maxsize=4096)
def parse_licence(text: str | None) -> Licence | None:
    """Parse the licence that somebody wrote; None where nothing was written."""
    plain = " ".join(unicodedata.normalize("NFKC", text or "").split())
    if not plain:
        return None
    lower = plain.lower()
    name = _of_url(plain, lower) or _of_identifier(plain) or _of_words(lower)
    return Licence(name, True) if name else Licence(lower, False)


def count_licences(texts: Iterable[str | None]) -> Counter[str]:
    """Count licences by name; `none` counts those where nothing was written."""
    licences = map(parse_licence, texts)
    return Counter("none" if licence is None else licence.name for licence in licences)


def _of_url(plain: str, lower: str) -> str | None:
    """Read the address of a licence anywhere in a text; None where there is none, or several licences differ."""
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
    """Read one SPDX identifier; None for an expression of several licences."""
    if " " in text:
        return None
    try:
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        return None


def _of_words(text: str) -> str | None:
    """Read a licence in words; None unless every word is understood."""
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
    """Read the words of a Creative Commons licence, such as `cc by nc 4.0`; None where they name none."""
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
    """Which licences a recording must have to become a track and be learned from. The defaults let every recording
    pass."""

    allow: tuple[str, ...] = ()
    """The only licences that pass; none given means all. Each is a name in any form (`CC-BY-4.0`, `CC BY 4.0`, a URL),
    which covers all versions if it has no version (`CC-BY`), or a pattern over SPDX's names (`CC-BY-*`, which also
    covers CC-BY-NC)."""
    deny: tuple[str, ...] = ()
    """Licences that do not pass, whatever `allow` says; written the same way (`*-NC-*`)."""
    unknown: Literal["refuse", "warn"] = "warn"
    """What happens to a recording with no licence, or with one that is not understood and that neither list names."""

    @field_validator("allow", "deny", mode="before")
    @classmethod
    def _split_text(cls, value: Any) -> Any:
        """Split the text that a command line gives: licences separated by commas."""
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("allow", "deny")
    @classmethod
    def _no_empty_licence(cls, licences: tuple[str, ...]) -> tuple[str, ...]:
        if any(not licence.strip() for licence in licences):
            raise ValueError(f"expected licences by name, such as CC-BY-4.0, got an empty one in {licences}")
        return licences

    @property
    def asks(self) -> bool:
        """Whether the policy checks anything about a recording."""
        return bool(self.allow or self.deny or self.unknown == "refuse")

    def refusal(self, text: str | None) -> str | None:
        """Return why a recording with this licence does not pass, as a sentence; None where it passes."""
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
            return f"expected a known licence (licences.unknown = refuse), got {shown}"
        if not self.allow:
            return None
        return f"expected a licence in licences.allow ({', '.join(self.allow)}), got {shown}"

    def is_unknown(self, text: str | None) -> bool:
        """Return whether a recording with this licence passes only because `unknown` is `warn`."""
        licence = parse_licence(text)
        if licence is not None and (licence.is_known or any(_covers(entry, licence) for entry in self.allow)):
            return False
        return self.asks and self.unknown == "warn" and self.refusal(text) is None


def _covers(entry: str, licence: Licence) -> bool:
    """Return whether an entry of a policy covers a licence."""
    if "*" in entry or "?" in entry:
        return licence.is_known and fnmatchcase(licence.name.lower(), entry.strip().lower())
    meant = parse_licence(entry)
    return meant is not None and meant.name in licence.names and meant.is_known == licence.is_known
