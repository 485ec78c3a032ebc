"""The report in a real browser: opened from the disk, filtered, sorted, played, and attacked."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.report import rendering
from tests.stages.report.test_report import HOSTILE, make
from tests.worlds.small_catalog import add_codec, request_row, small_catalog

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium is installed: apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"]
        launched = driver.chromium.launch(executable_path=BROWSER, args=arguments)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("a store # with odd & name")
    requests = [request_row(number) for number in range(60)]
    for number, text in enumerate(HOSTILE):
        requests[number] |= {"title": text, "description": text, "name": text}
    context = small_catalog(str(folder), requests)
    add_codec(context)
    make(context)
    return (folder / "report/index.html").as_uri()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": 1200, "height": 900})
    opened.messages = []
    opened.on("console", lambda message: opened.messages.append(message.text))
    opened.on("pageerror", lambda error: opened.messages.append(str(error)))
    opened.goto(address)
    yield opened
    opened.close()


def shown(page: Any) -> list[str]:
    # What is far below the screen is not laid out, and has no inner text.
    return [card.text_content() for card in page.locator(".card:visible h3").all()]


def test_the_page_opens_from_a_disk_without_an_error_and_shows_the_first_cards(page: Any) -> None:
    assert page.messages == []
    assert len(shown(page)) == 48
    assert page.locator("#count").inner_text() == "48 of 60 clips"
    page.click("#more")
    assert len(shown(page)) == 60


def test_hostile_titles_are_inert_text(page: Any) -> None:
    titles = shown(page)
    for text in HOSTILE:
        assert any(" ".join(text.split()) in " ".join(title.split()) for title in titles)
    assert page.title() == "The catalog"
    assert page.evaluate("document.querySelectorAll('script').length") == 1
    assert page.evaluate("document.querySelectorAll('.card img').length") == 60
    assert not [href for href in page.evaluate("[...document.links].map(a => a.protocol)") if href != "file:"]


def test_a_tag_that_slipped_through_would_be_stopped_by_the_policy(page: Any) -> None:
    page.evaluate("""() => {
        const box = document.createElement('div');
        box.innerHTML = '<img src="pictures/none.png" onerror="document.title=1">'
            + '<a href="javascript:document.title=2">x</a>';
        document.body.append(box);
        box.querySelector('a').click();
        const script = document.createElement('script');
        script.textContent = 'document.title = 3';
        document.body.append(script);
    }""")
    page.wait_for_timeout(300)
    assert page.title() == "The catalog"
    assert any("Content Security Policy" in message for message in page.messages)


def test_the_search_finds_words_in_any_order_and_the_filter_narrows_it(page: Any) -> None:
    page.fill("#find", "engine xylophone")
    assert page.locator("#empty").is_visible()
    page.fill("#find", "BELLS number 33")
    page.wait_for_timeout(50)
    assert shown(page) == ["Salt Harbour 33"]
    page.fill("#find", "")
    page.select_option("#kind", "melody")
    assert page.locator("#count").inner_text() == "30 of 60 clips"
    page.select_option("#kind", "clap")
    page.click("#clear")
    assert page.locator("#count").inner_text() == "48 of 60 clips"


def test_cards_are_sorted_by_a_score_and_those_without_it_come_last(page: Any) -> None:
    page.click("#all")
    for option, largest_first in (("melody", True), ("-melody", False)):
        page.select_option("#sort", option)
        page.click("#all") if page.locator("#all").is_visible() else None
        values = page.evaluate("[...document.querySelectorAll('.card')].map(card => card.dataset.melody ?? null)")
        rated = [float(value) for value in values if value is not None]
        assert rated == sorted(rated, reverse=largest_first)
        assert values[:30].count(None) == 0
    page.select_option("#sort", "")
    assert page.evaluate("document.querySelectorAll('.card')[8].querySelector('h3').textContent") == "Paper Garden 8"


def test_a_clips_sound_loads_and_only_one_plays(page: Any) -> None:
    seconds = page.evaluate("""async () => {
        const [audio] = document.querySelectorAll('.card audio');
        audio.preload = 'metadata';
        audio.load();
        await new Promise((done, failed) => { audio.onloadedmetadata = done; audio.onerror = failed; });
        return audio.duration;
    }""")
    assert seconds == pytest.approx(4.0, abs=0.05)
    playing = page.evaluate("""async () => {
        const [one, other] = document.querySelectorAll('.card audio');
        one.muted = other.muted = true;
        await one.play();
        await other.play();
        await new Promise(done => setTimeout(done, 300));
        return [one.paused, other.paused, other.closest('.card').classList.contains('playing')];
    }""")
    assert playing == [True, False, True]


def test_a_reconstruction_plays_beside_its_original_and_stops_a_clip(page: Any) -> None:
    assert page.locator("#codec .heard").count() == 2
    playing = page.evaluate("""async () => {
        const clip = document.querySelector('.card audio');
        const [original, decoded] = document.querySelectorAll('.heard audio');
        const moments = [];
        for (const one of [clip, original, decoded]) {
            one.muted = true;
            await one.play();
            await new Promise(done => setTimeout(done, 400));
            moments.push([clip.paused, original.paused, decoded.paused]);
        }
        return [moments, getComputedStyle(decoded.closest('.side').querySelector('.played')).transform];
    }""")
    assert playing[0] == [[False, True, True], [True, False, True], [True, True, False]]
    assert float(playing[1].removeprefix("matrix(").split(",")[0]) > 0
    first, second = (page.locator("#codec .heard .side").nth(number).bounding_box() for number in (0, 1))
    assert first["y"] == second["y"]
    page.set_viewport_size({"width": 390, "height": 800})
    first, second = (page.locator("#codec .heard .side").nth(number).bounding_box() for number in (0, 1))
    assert second["y"] >= first["y"] + first["height"]


def test_the_keyboard_reaches_the_search(page: Any) -> None:
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "find"
    page.keyboard.type("river 1")
    page.wait_for_timeout(50)
    assert 0 < len(shown(page)) < 48


@pytest.mark.parametrize("width", [360, 800, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen_and_text_stands_out(page: Any, width: int, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    worst = page.evaluate("""() => {
        const light = text => {
            const [r, g, b] = text.match(/[\\d.]+/g).map(v => v / 255)
                .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
            return .2126 * r + .7152 * g + .0722 * b;
        };
        const behind = node => {
            for (; node; node = node.parentElement) {
                const colour = getComputedStyle(node).backgroundColor;
                if (!/, 0\\)$/.test(colour)) return colour;
            }
            return 'rgb(255, 255, 255)';
        };
        const texts = 'p, dt, dd, h1, h2, h3, small, figcaption, .verdict, .scores li, summary, th, td, a';
        return Math.min(...[...document.querySelectorAll(texts)]
            .filter(node => node.offsetParent && node.textContent.trim() && !node.closest('.skip')).map(node => {
                const a = light(getComputedStyle(node).color), b = light(behind(node));
                return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
            }));
    }""")
    assert worst >= 4.5


def test_of_very_many_cards_only_those_that_are_shown_have_a_player(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "PLAYERS", 10)
    make(small_catalog(str(tmp_path), [request_row(number) for number in range(60)]))
    opened = browser.new_page()
    opened.goto((tmp_path / "report/index.html").as_uri())
    assert (opened.locator(".card audio").count(), opened.locator(".listen").count()) == (48, 12)
    opened.fill("#find", "number 59")
    opened.wait_for_timeout(50)
    audio = opened.locator(".card:visible audio")
    assert audio.count() == 1
    assert audio.get_attribute("aria-label") == "Amber Tide 59"
    assert audio.evaluate("node => node.src").endswith("-0.flac")
    assert opened.locator(".listen").count() == 11
    opened.close()


def test_without_a_script_every_clip_is_there(browser: Any, address: str) -> None:
    opened = browser.new_context(java_script_enabled=False).new_page()
    opened.goto(address)
    assert opened.locator(".card audio").count() == 60
    assert opened.locator(".heard audio").count() == 4
    assert opened.locator(".card:visible").count() == 60
    assert not opened.locator(".tools").is_visible()
    opened.close()
