"""The page of a delivery in a real browser: every number is labelled, on a phone too."""

from collections.abc import Iterator
from typing import Any

import pytest

from stages.delivery.choosing import choose_clips
from stages.delivery.delivering import deliver
from stages.delivery.making import Form, Maker
from tests.stages.report.test_browser import BROWSER
from tests.worlds.delivered_clips import delivered_store

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium is installed: apt-get install chromium")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    store, folder = delivered_store(tmp_path_factory.mktemp("store")), tmp_path_factory.mktemp("delivery") / "d"
    deliver(store, choose_clips(store), str(folder), Maker(store, Form(), None), "{name}_{take}", prune=False)
    return (folder / "index.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


@pytest.mark.parametrize(("width", "labelled"), [(1200, False), (390, True)])
def test_numbers_have_labels_where_the_head_of_the_table_has_no_room(
    browser: Any, address: str, width: int, labelled: bool
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark")
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    labels = page.eval_on_selector_all(
        "tbody tr:first-child td[data-label]",
        "cells => cells.filter(each => each.checkVisibility()).map(each => getComputedStyle(each, '::before').content)",
    )
    assert labels[:2] == (['"Take "', '"Length "'] if labelled else ["none", "none"])
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_hint_in_the_search_field_stands_out(browser: Any, address: str, scheme: str) -> None:
    page = browser.new_page(color_scheme=scheme)
    page.goto(address)
    colours = page.locator("input").evaluate(
        "input => [getComputedStyle(input, '::placeholder').color, getComputedStyle(input).color,"
        " Number(getComputedStyle(input, '::placeholder').opacity)]"
    )
    assert colours[0] == colours[1]
    assert colours[2] >= 0.7  # of white on Chromium's dark field, and of black on white: a contrast of 4.5 to 1 or more
    page.close()
