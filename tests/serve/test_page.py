"""The page in a headless browser: asked as a person asks, with what they may do wrong, by mouse and by keyboard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.platform.client.fakes import running
from tests.serve.fakes import CHROMIUM, ORDER, PAGE, STEPS, PageServer, texts

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="the page is tested in Chromium, and none is here (Debian: apt-get install chromium)"
)


@pytest.fixture
def server() -> PageServer:
    return PageServer()


@pytest.fixture
def url(server: PageServer) -> Iterator[str]:
    with running(server.app) as address:
        yield address


@pytest.fixture
def complaints() -> list[str]:
    """What the browser said in its console of errors and of the security policy; a test empties what it expects."""
    return []


@pytest.fixture
def page(browser: Browser, url: str, complaints: list[str]) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.set_default_timeout(120_000)  # of a machine that does other things too
    opened.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(url)
    # By locators: the page's policy forbids the evaluation that waiting for an expression needs.
    opened.locator(".robot").nth(4).or_(opened.locator("#key-card:not([hidden])")).first.wait_for(state="attached")
    yield opened
    opened.close()
    assert complaints == []


def ask(page: Page, task: str = "Inspect the pier") -> None:
    page.fill("#task", task)
    page.click("#ask")


def done(page: Page) -> None:
    page.wait_for_selector("#status:has-text('Send ')")


def test_a_picture_of_ours_a_task_and_the_answer(page: Page, server: PageServer) -> None:
    page.click("#ours button >> nth=0")
    page.wait_for_selector("#preview:not([hidden])")
    assert page.input_value("#task") == "Please take a close look at the insulator and see what state it is in"
    page.click("#ask")
    done(page)
    asked = server.asked[0]
    assert asked == {
        "task": "Please take a close look at the insulator and see what state it is in",
        "reasoning": "true",
        "attention": "true",
        "image": (PAGE / "scene-flooded-pit.jpg").stat().st_size,
    }, "the default fleet is not sent"
    assert texts(page, "#ranking .robot-line > span:first-child") == ["Underwater Robot\nsend", *ORDER[1:]] or texts(
        page, "#ranking .robot-line > span:first-child"
    ) == ["Underwater Robotsend", *ORDER[1:]]
    assert texts(page, "#ranking .robot-line > span:last-child") == ["97 %", "29 %", "9 %", "3 %", "1 %"]
    widths = page.eval_on_selector_all(".bar > div", "bars => bars.map(b => b.clientWidth / b.parentNode.clientWidth)")
    assert widths == pytest.approx([0.97 * 0.3**i for i in range(5)], abs=0.02)
    assert texts(page, "#team li") == ["Underwater Robot"]
    assert texts(page, "#steps li") == STEPS
    assert texts(page, "#plan li") == ["dive to the pier Underwater Robot"]
    assert page.inner_text("#status") == "Send Underwater Robot."
    assert page.inner_text("#none-of-these") == "None of these can do it: 4 %."
    assert page.inner_text("#familiarity") == "Unlike what the model was trained on: familiarity 3 %."


def test_a_fleet_without_a_suitable_robot_is_not_sent_as_if_it_had_one(page: Page, server: PageServer) -> None:
    server.none_of_these = 0.8
    ask(page)
    page.wait_for_selector("#status:has-text('best guess')")
    assert page.inner_text("#status") == "Perhaps none of these can do it. The best guess is Underwater Robot."
    assert page.inner_text("#none-of-these") == "None of these can do it: 80 %."


def test_the_reasoning_is_seen_while_it_is_written_and_can_be_stopped(page: Page, server: PageServer) -> None:
    server.hold = True
    ask(page)
    page.wait_for_selector("#steps li:has-text('task: inspect the pier.')")
    assert page.get_attribute("#result", "aria-busy") == "true"
    assert page.is_hidden("#ranking-part")
    assert page.is_disabled("#ask")
    page.click("#stop")
    page.wait_for_selector("#status:has-text('Stopped.')")
    server.hold = False
    ask(page)
    done(page)
    assert texts(page, "#steps li") == STEPS


def test_where_it_looked_is_over_the_picture_and_in_words(page: Page, tmp_path: Path) -> None:
    Image.new("RGB", (600, 200), "white").save(tmp_path / "wide.png")
    page.set_input_files("#file", tmp_path / "wide.png")
    page.wait_for_selector("#preview:not([hidden])")
    ask(page)
    done(page)
    expect(page.locator("#heat")).to_have_attribute("width", re.compile(r"\d\d"))
    assert "upper left (50 %)" in page.inner_text("#look-words")
    page.select_option("#look", "Robot with Wheels")
    assert "middle centre (50 %)" in page.inner_text("#look-words")
    # Of a wide picture the model sees the middle, one and a half times as wide as high.
    image, heat = page.locator("#looked-at").bounding_box(), page.locator("#heat").bounding_box()
    assert image is not None
    assert heat is not None
    assert heat["width"] == pytest.approx(1.5 * heat["height"], abs=2)
    assert heat["x"] + heat["width"] / 2 == pytest.approx(image["x"] + image["width"] / 2, abs=2)
    red = """([x, y]) => {
        const heat = document.getElementById('heat');
        const copy = new OffscreenCanvas(heat.width, heat.height).getContext('2d', { willReadFrequently: true });
        copy.drawImage(heat, 0, 0);
        return copy.getImageData(x * heat.width, y * heat.height, 1, 1).data[0]; }"""
    # Smoothed: how much of the cell's colour is left in its middle differs between browsers.
    assert page.evaluate(red, [0.5, 0.5]) > 120 > 50 > page.evaluate(red, [0.1, 0.9])


def test_the_fleet_can_be_edited(page: Page, server: PageServer) -> None:
    page.click("#fleet-details summary")
    for _ in range(4):
        page.click(".robot .remove >> nth=0")
    page.click("#add-robot")
    page.keyboard.type("Mole")
    page.fill(".robot >> nth=1 >> .capabilities", "digs tunnels\n\n  lifts stones ")
    assert page.inner_text("#fleet-count") == "2 robots, edited"
    page.uncheck("#reasoning")
    ask(page)
    done(page)
    fleet = server.asked[0]["fleet"]
    assert [robot["name"] for robot in fleet] == ["Robot with Legs", "Mole"]
    assert fleet[1] == {
        "name": "Mole", "capabilities": ["digs tunnels", "lifts stones"], "limitations": [], "environments": [],
    }  # fmt: skip
    assert page.is_hidden("#reasoning-part")
    assert page.is_hidden("#none-of-these"), "a model that cannot tell"
    assert page.inner_text("#familiarity") == "Like what the model was trained on: familiarity 60 %."
    page.click("#reset-fleet")
    assert page.inner_text("#fleet-count") == "5 robots, the default fleet"


def test_what_can_be_seen_to_be_wrong_is_said_at_the_field(page: Page, server: PageServer) -> None:
    page.click("#ask")
    assert page.inner_text("#task-error") == "Say what is to be done."
    assert page.evaluate("document.activeElement.id") == "task"
    page.fill("#task", "go")
    page.click("#fleet-details summary")
    page.fill(".robot .name >> nth=1", "Drone")
    page.click("#ask")
    assert "Two robots are called “Drone”" in page.inner_text("#fleet-error")
    assert page.locator(".name[aria-invalid=true]").count() == 1
    for _ in range(5):
        page.click(".robot .remove >> nth=0")
    page.click("#ask")
    assert "The fleet is empty" in page.inner_text("#fleet-error")
    assert server.asked == []


def test_a_bad_file_is_refused_kindly(page: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no picture at all")
    page.set_input_files("#file", tmp_path / "notes.png")
    page.wait_for_selector("#file-error:not([hidden])")
    assert "“notes.png” does not open as a picture" in page.inner_text("#file-error")
    assert page.is_hidden("#preview")


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ((415, "unsupported-picture", {}), "Use a JPEG, PNG or WebP"),
        ((413, "picture-too-large", {}), "larger than the server takes"),
        ((408, "deadline-exceeded", {}), "took too long"),
        ((429, "rate-limited", {}), "Wait a moment"),
        ((500, "internal", {}), "not your question"),
        (
            (422, "invalid", {"errors": [{"field": "fleet.1.name", "message": "too strange"}]}),
            "fleet.1.name: too strange",
        ),
    ],
)
def test_what_the_server_refuses_is_said_kindly(
    page: Page, server: PageServer, complaints: list[str], failure: Any, words: str
) -> None:
    # Chromium itself asks again where a connection that was used before answers 408.
    server.failures = [failure] * (9 if failure[0] == 408 else 1)
    ask(page)
    page.wait_for_selector("#problem:not([hidden])")
    said = page.inner_text("#problem")
    assert words in said
    assert "Request r1" in said
    assert page.inner_text("#status") == "No answer."
    if "errors" in failure[2]:
        assert page.locator(".name[aria-invalid=true]").count() == 1
    server.failures.clear()
    ask(page)
    done(page)
    assert page.is_hidden("#problem")
    # The browser itself notes a refused request in its console; nothing else may be there.
    assert len(complaints) == 1
    assert re.search(rf"status of {failure[0]}", complaints.pop())


def test_a_busy_server_is_asked_again(page: Page, server: PageServer, complaints: list[str]) -> None:
    server.failures = [(503, "overloaded", {}), (503, "not-ready", {})]
    ask(page)
    done(page)
    assert len(server.asked) == 3
    assert [text for text in complaints if "503" not in text] == []
    complaints.clear()


def test_a_lost_connection_is_said(page: Page, complaints: list[str]) -> None:
    page.route("**/v1/select", lambda route: route.abort())
    ask(page)
    page.wait_for_selector("#problem:has-text('cannot be reached')")
    assert [text for text in complaints if "ERR_FAILED" not in text] == []
    complaints.clear()


class TestWithKeys:
    """A server that wants a key."""

    @pytest.fixture
    def server(self) -> PageServer:
        server = PageServer()
        server.key = "ember_a_b"
        return server

    def test_the_key_is_asked_for_and_kept_nowhere(self, page: Page, server: PageServer, complaints: list[str]) -> None:
        assert page.inner_text("#status") == "Enter the access key first."
        page.fill("#key", "ember_a_b")
        page.keyboard.press("Enter")
        page.wait_for_selector("#status:has-text('The key is good')")
        assert page.is_hidden("#key-card")
        ask(page)
        done(page)
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
        assert all("401" in text for text in complaints)
        complaints.clear()


def test_by_keyboard_alone(page: Page, server: PageServer) -> None:
    reached = []
    page.evaluate("document.activeElement.blur()")
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.dataset.file || ''"))
    assert reached[:3] == ["", "file", "scene-flooded-pit.jpg"], "the link to the task, the file, our pictures"
    assert "task" in reached
    page.focus("#ours button >> nth=2")
    page.keyboard.press("Space")
    page.wait_for_selector("#preview:not([hidden])")
    page.focus("#task")
    page.keyboard.press("Control+Enter")
    done(page)
    assert page.evaluate("document.activeElement.id") == "result"


def test_everything_has_a_name_for_a_screen_reader(page: Page) -> None:
    page.click("#ours button >> nth=0")
    page.wait_for_selector("#preview:not([hidden])")
    page.click("#fleet-details summary")
    ask(page)
    done(page)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, textarea, select, img, canvas, summary')]
            .filter(e => e.checkVisibility())
            .filter(e => !(e.innerText?.trim() || e.alt || e.getAttribute('aria-label') || e.labels?.length
                           || e.querySelector?.('img')?.alt))
            .map(e => e.outerHTML.slice(0, 80))"""
    )
    assert nameless == []
    headings = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]))")
    assert headings[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(headings)), "no level is skipped"
    assert page.get_attribute("#status", "role") == "status"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 768, 1280])
def test_it_fits_and_is_legible(page: Page, width: int, scheme: Any, tmp_path: Path) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.click("#ours button >> nth=0")
    page.wait_for_selector("#preview:not([hidden])")
    page.click("#fleet-details summary")
    ask(page)
    done(page)
    page.click("#more summary")
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing is cut off at the side"
    small = page.evaluate(
        """() => [...document.querySelectorAll('button, select, .tick')].filter(e => e.checkVisibility())
            .map(e => e.getBoundingClientRect()).filter(r => Math.min(r.width, r.height) < 24).length"""
    )
    assert small == 0, "everything can be hit with a finger"
    assert low_contrast(page) == []


def low_contrast(page: Page) -> list[str]:
    """Texts whose contrast to what is behind them is below 4.5 (WCAG AA)."""
    found: list[str] = page.evaluate(
        """() => {
        const part = (c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
        const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
        const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
        const behind = (e) => { for (; e; e = e.parentElement) {
            const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; }
            return [255, 255, 255]; };
        const bad = [];
        const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        while (walk.nextNode()) {
            const e = walk.currentNode.parentElement;
            if (!walk.currentNode.data.trim() || !e.checkVisibility() || e.closest('.skip, :disabled')) continue;
            const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
            const ratio = (a + 0.05) / (b + 0.05);
            if (ratio < 4.5) bad.push(`${ratio.toFixed(2)}: ${walk.currentNode.data.trim().slice(0, 40)}`);
        }
        return bad; }"""
    )
    return found


def test_nothing_in_the_page_is_inline_or_from_elsewhere() -> None:
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"\sstyle=|\son\w+=|<style|<script(?![^>]*src=)", html)
    for file in PAGE.iterdir():
        if file.suffix in {".html", ".js", ".css"}:
            text = file.read_text(encoding="utf-8")
            assert not re.search(r"https?://", text), file.name
            assert "innerHTML" not in text, "texts of the model and the fleet are never markup"
            assert "eval(" not in text


def test_our_pictures_are_small_and_pictures() -> None:
    pictures = sorted(PAGE.glob("scene-*.jpg"))
    assert len(pictures) == 6
    for path in pictures:
        with Image.open(path) as picture:
            picture.load()
            assert (picture.format, picture.size) == ("JPEG", (320, 320))
        assert path.stat().st_size < 40_000
