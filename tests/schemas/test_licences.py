"""Spellings of licences, normalised to one name each, and policies on licences."""

import pytest
from pydantic import ValidationError

from schemas.licences import ALL_RIGHTS_RESERVED, PUBLIC_DOMAIN, LicencePolicy, parse_licence

FORMS = {
    "CC-BY-4.0": (
        *("CC-BY-4.0", "cc-by-4.0", "CC BY 4.0", "cc by 4", "CC_BY_4.0", "Attribution 4.0 International"),
        *("http://creativecommons.org/licenses/by/4.0/", "https://creativecommons.org/licenses/by/4.0/legalcode"),
        *("Creative Commons Attribution 4.0 International License", "https://spdx.org/licenses/CC-BY-4.0.html"),
        "2019 Somebody. Licensed to the public under http://creativecommons.org/licenses/by/4.0/ verify at http://a.b/c",
    ),
    "CC-BY-NC-SA-3.0": (
        *("CC BY-NC-SA 3.0", "by-nc-sa cc 3.0", "http://creativecommons.org/licenses/by-nc-sa/3.0/"),
        "Creative Commons Attribution-NonCommercial-ShareAlike 3.0 Unported",
        "Attribution-Non-Commercial-Share Alike 3.0",
    ),
    "CC-BY-NC-ND": ("CC BY-NC-ND", "Creative Commons Attribution Non-Commercial No Derivatives"),
    "CC-BY-3.0-US": ("CC-BY-3.0-US", "https://creativecommons.org/licenses/by/3.0/us/"),
    "CC-BY": ("CC-BY", "CC BY", "cc by licence", "https://creativecommons.org/licenses/by/"),
    "CC0-1.0": ("CC0", "cc 0", "CC0 1.0 Universal", "https://creativecommons.org/publicdomain/zero/1.0/", "CC Zero"),
    PUBLIC_DOMAIN: ("Public Domain", "PD", "https://creativecommons.org/publicdomain/mark/1.0/"),
    ALL_RIGHTS_RESERVED: ("All rights reserved", "© 2004 A Label. All Rights Reserved."),
    "MIT": ("mit",),
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in FORMS.items() for text in texts])
def test_every_spelling_of_a_licence_has_the_same_name(name, text):
    licence = parse_licence(text)
    assert (licence.name, licence.is_known) == (name, True)
    assert parse_licence(licence.name) == licence


@pytest.mark.parametrize(
    "text",
    [
        *("© 2004 A Label", "free to use", "by", "BY 4.0", "royalty free", "CC", "CC BY or MIT", "MIT OR CC-BY-4.0"),
        *("CC BY-NC for private use, else ask", "not CC BY", "CC BY-SA-ND 4.0", "CC BY 3.0 4.0"),
        "http://creativecommons.org/licenses/by/4.0/ or http://creativecommons.org/licenses/by-nc/4.0/",
    ],
)
def test_an_ambiguous_licence_is_not_guessed(text):
    assert not parse_licence(text).is_known


@pytest.mark.parametrize("text", [None, "", "  \n"])
def test_an_empty_text_is_not_a_licence(text):
    assert parse_licence(text) is None


def passes(text, **policy):
    return LicencePolicy(**policy).refusal(text) is None


def test_a_name_without_a_version_means_all_versions_and_no_other_licence():
    assert passes("CC BY 3.0", allow=["CC-BY"])
    assert passes("https://creativecommons.org/licenses/by/3.0/us/", allow=["CC BY 3.0"])
    assert not passes("CC BY 3.0", allow=["CC-BY-4.0"])
    assert not passes("CC BY-NC 4.0", allow=["CC-BY"])
    assert not passes("CC BY", allow=["CC-BY-4.0"])


def test_a_denied_licence_is_refused_even_if_it_is_allowed():
    assert not passes("CC BY-NC 4.0", allow=["CC-BY-*"], deny=["*-NC-*"])
    assert passes("CC BY 4.0", allow=["CC-BY-*"], deny=["*-NC-*"])
    assert passes("CC BY 4.0", deny=["CC-BY-NC"])
    assert not passes("CC BY-NC 4.0", deny=["CC-BY-NC"])


@pytest.mark.parametrize("text", [None, "", "free to use"])
def test_an_unknown_licence_passes_or_is_refused_as_the_policy_says(text):
    assert passes(text, allow=["CC-BY"])
    assert LicencePolicy(allow=["CC-BY"]).is_unknown(text)
    assert not passes(text, allow=["CC-BY"], unknown="refuse")
    assert not passes(text, unknown="refuse")


def test_a_text_that_a_policy_names_is_known():
    policy = LicencePolicy(allow=["Our Own Contract"], unknown="refuse")
    assert policy.refusal("our own  contract") is None
    assert policy.refusal("their contract") is not None
    assert not LicencePolicy(allow=["Our Own Contract"]).is_unknown("Our own contract")
    assert not passes("Our own contract", deny=["our own contract"])


def test_an_empty_policy_refuses_nothing():
    assert not LicencePolicy().asks
    assert passes("All rights reserved")
    assert not LicencePolicy().is_unknown(None)


def test_a_refusal_says_what_was_expected_and_what_was_given():
    sentence = LicencePolicy(allow=["CC0-1.0", "CC-BY"]).refusal("CC BY-NC 4.0")
    assert sentence == "expected a licence in licences.allow (CC0-1.0, CC-BY), got 'CC BY-NC 4.0'"
    denied = LicencePolicy(deny=["*-NC-*"]).refusal("CC BY-NC 4.0")
    assert denied == "expected a licence that licences.deny does not name, got 'CC BY-NC 4.0', which is *-NC-*"


def test_a_command_line_separates_licences_by_commas():
    assert LicencePolicy(allow="CC0, CC-BY,*-SA-*").allow == ("CC0", "CC-BY", "*-SA-*")
    assert LicencePolicy(deny="CC-BY-NC").deny == ("CC-BY-NC",)


def test_an_empty_name_of_a_licence_is_refused():
    with pytest.raises(ValidationError, match="expected licences by name"):
        LicencePolicy(allow=[" "])
