"""The report's page in Chromium: it works, alone, by pointer and by keyboard, on a phone too."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bd_fixtures import published
from report_fixtures import EVIL, SPEED, write_results

from lictor.reporting.page import build_report
from lictor.reporting.sources import Source, load_sources

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CHROMEDRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and CHROMEDRIVER), reason="needs chromium and chromedriver on the path"
    ),
]


@pytest.fixture(scope="session")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    speed = {"speed": {f"q{q}": SPEED for q in (10, 30, 55, 80)}}
    write_results(folder, "JPEG", codec=speed)
    write_results(folder, "WebP", "WEBP")
    write_results(folder, EVIL, "WEBP", (5, 20, 50, 90))
    sources, _ = load_sources([str(folder)])
    sources.append(Source(published("paper", [0.2, 0.4, 0.8, 1.6], [26, 29, 32, 35])))
    path = folder / "report.html"
    path.write_text(build_report(sources), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def browser(tmp_path_factory) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--window-size=1200,900", f"--user-data-dir={profile}"),
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    yield driver
    driver.quit()


class Page:
    """The page in a browser, with words for what these tests do to it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def run(self, script: str, *args: object) -> Any:
        return self.driver.execute_script(script, *args)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def show(self, selector: str) -> Any:
        found = self.find(selector)
        self.run("arguments[0].scrollIntoView({block: 'center'})", found)
        return found

    def click(self, selector: str) -> None:
        self.show(selector).click()

    def choose(self, selector: str, text: str) -> None:
        from selenium.webdriver.support.ui import Select

        Select(self.show(selector)).select_by_visible_text(text)

    def actions(self) -> Any:
        from selenium.webdriver import ActionChains

        return ActionChains(self.driver, duration=50)

    def press(self, selector: str, *keys: str) -> None:
        self.show(selector)
        self.run("document.querySelector(arguments[0]).focus()", selector)
        self.actions().send_keys(*keys).perform()

    def drawn(self) -> None:
        """Wait until the viewer has drawn what is chosen."""
        end = time.monotonic() + 10
        while not self.run("return document.getElementById('stage').dataset.drawn"):
            assert time.monotonic() < end, "the viewer does not draw"
            time.sleep(0.02)

    def canvas(self, side: str) -> list[int]:
        """A row of pixels of what a side shows."""
        self.drawn()
        return self.run(
            "const c = document.getElementById(arguments[0]);"
            "return [...c.getContext('2d').getImageData(0, 60, 100, 1).data]",
            f"canvas-{side}",
        )

    def border(self) -> float:
        return float(self.find("#divider").get_attribute("aria-valuenow"))

    def scale(self) -> float:
        text = self.run("return document.getElementById('canvas-left').style.transform")
        other = self.run("return document.getElementById('canvas-right').style.transform")
        assert text == other
        return float(text.rpartition("scale(")[2].rstrip(")"))

    def column(self, table: str, number: int) -> list[str]:
        return self.run(
            "return [...document.querySelectorAll(arguments[0])].map("
            "row => row.cells[arguments[1]].textContent)",
            f"{table} tbody tr",
            number,
        )

    def trouble(self) -> list[str]:
        """What the console says, but for its advice on how these tests read pixels."""
        messages = [entry["message"] for entry in self.driver.get_log("browser")]
        return [message for message in messages if "willReadFrequently" not in message]


@pytest.fixture
def opened(browser, page) -> Page:
    """The page as a reader finds it, in a fresh window of 1200 pixels."""
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get_log("performance")
    browser.get(page.as_uri())
    found = Page(browser)
    found.run("localStorage.clear(); document.documentElement.dataset.theme = 'light'")
    found.drawn()
    return found


def test_it_loads_without_errors_and_without_the_network(opened, page):
    for metric in ("MS-SSIM dB", "PSNR dB"):
        opened.choose("#metric", metric)
    requests = [
        message["params"]["request"]["url"]
        for entry in opened.driver.get_log("performance")
        if (message := json.loads(entry["message"])["message"])["method"]
        == "Network.requestWillBeSent"
    ]
    # Chromium's own start page may still be among what was logged.
    foreign = [url for url in requests if not url.startswith(("data:", "blob:", "chrome"))]
    assert set(foreign) == {page.as_uri()}
    assert opened.run("return performance.getEntriesByType('resource').map(e => e.name)") == []
    assert opened.trouble() == []
    assert opened.run("return document.querySelectorAll('.js-plotly-plot').length") == 2


def test_a_script_that_got_in_would_not_run(opened):
    opened.run(
        "const s = document.createElement('script'); s.textContent = 'window.pwned = 1';"
        "document.body.append(s); document.body.insertAdjacentHTML('beforeend',"
        "'<img src=x onerror=\"window.pwned = 1\">')"
    )
    time.sleep(0.1)
    assert opened.run("return window.pwned ?? null") is None
    assert any("Content Security Policy" in line for line in opened.trouble())


def test_names_are_text_in_chart_legend_and_viewer(opened):
    buttons = opened.run(
        "return [...document.querySelectorAll('.legend button')].map(b => b.innerText)"
    )
    assert buttons == ["JPEG", "WebP", EVIL, "paper"]
    opened.choose("#view-right", EVIL)
    assert opened.find("#caption-right strong").text.startswith(EVIL)
    opened.choose("#time-kind", "by codec")
    labels = opened.run(
        "return [...document.querySelectorAll('#time-chart .ytick text')].map(t => t.textContent)"
    )
    assert EVIL[:20] in labels[2]
    assert opened.trouble() == []


def test_the_legend_hides_a_curve_in_every_chart(opened):
    visible = (
        "return ['rd-chart', 'time-chart'].map(id => document.getElementById(id).data"
        ".filter(t => t.meta === 1).every(t => t.visible === true))"
    )
    assert opened.run(visible) == [True, True]
    lines = "return document.querySelectorAll('#rd-chart .scatterlayer .trace').length"
    assert opened.run(lines) == 4
    opened.click(".legend [data-curve='1']")
    assert opened.run(visible) == [False, False]
    assert opened.run(lines) == 3
    assert opened.find(".legend [data-curve='1']").get_attribute("aria-pressed") == "false"
    opened.press(".legend [data-curve='1']", " ")
    assert opened.run(visible) == [True, True]


def test_metric_axis_and_anchor_change_chart_and_tables(opened):
    first = opened.run("return document.getElementById('rd-chart').data[0].y")
    opened.choose("#metric", "MS-SSIM dB")
    assert opened.run("return document.getElementById('rd-chart').data[0].y") != first
    assert "paper" in opened.find("#rd-note").text
    assert not opened.find("#aggregation").is_displayed()
    opened.click("[name=rate-axis][value=log] + span")
    assert opened.run("return document.getElementById('rd-chart').layout.xaxis.type") == "log"
    opened.choose("#anchor", "WebP")
    seen = opened.run(
        "return [...document.querySelectorAll('#bd-table tbody:not([hidden])')]"
        ".map(b => [b.dataset.view, b.dataset.anchor])"
    )
    assert seen == [["ms-ssim-db|mean-psnr", "1"]]
    assert "WebP" in opened.find("#bd-rate .note").text
    heads = opened.run(
        "return [...document.querySelectorAll('#picture-rates th[scope=col]')]"
        ".map(t => t.innerText)"
    )
    assert heads[:2] == ["Picture", "JPEG"]


def test_the_dark_theme_is_a_button_away_and_stays(opened):
    back = "return getComputedStyle(document.body).backgroundColor"
    light = opened.run(back)
    line = "return document.getElementById('rd-chart').data[0].line.color"
    light_line = opened.run(line)
    opened.click("#theme")
    assert opened.run(back) != light
    assert opened.run(line) != light_line
    assert opened.find("#theme").get_attribute("aria-pressed") == "true"
    opened.driver.refresh()
    opened.drawn()
    assert opened.run("return document.documentElement.dataset.theme") == "dark"
    opened.click("#theme")
    assert opened.run(back) == light


def test_tables_are_sorted_by_their_headers(opened):
    table = "#rows table"
    opened.click(f"{table} th:nth-child(3) button")
    sizes = [int(text.replace(",", "")) for text in opened.column(table, 2)]
    assert sizes == sorted(sizes)
    header = opened.find(f"{table} th:nth-child(3)")
    assert header.get_attribute("aria-sort") == "ascending"
    opened.press(f"{table} th:nth-child(3) button", " ")
    assert header.get_attribute("aria-sort") == "descending"
    assert [int(text.replace(",", "")) for text in opened.column(table, 2)] == sizes[::-1]
    opened.choose("#rows-curve", "WebP")  # another table, in the same order
    assert opened.find(f"{table} th:nth-child(3)").get_attribute("aria-sort") == "descending"
    opened.click("#bd-table th:nth-child(1) button")
    names = opened.run(
        "return [...document.querySelectorAll('#bd-table tbody:not([hidden]) tr')]"
        ".map(r => r.cells[0].innerText)"
    )
    assert names == [EVIL, "JPEG", "paper", "WebP"]


def test_the_border_moves_by_pointer_and_by_keyboard(opened):
    opened.show("#stage")
    assert opened.border() == 50
    divider = opened.find("#divider")
    width = opened.find("#stage").size["width"]
    opened.actions().drag_and_drop_by_offset(divider, -width // 4, 0).perform()
    assert opened.border() == pytest.approx(25, abs=2)
    clip = opened.run("return document.getElementById('layer-right').style.clipPath")
    assert float(clip.split()[-1].rstrip("%)")) == pytest.approx(25, abs=2)
    before = opened.border()
    opened.press("#divider", "\ue014", "\ue014")  # arrow right
    assert opened.border() == before + 2
    opened.press("#divider", "\ue010")  # end
    assert opened.border() == 100
    opened.press("#divider", "\ue011")  # home
    assert opened.border() == 0
    assert "0 % left" in divider.get_attribute("aria-valuetext")


def test_another_codec_picture_or_rate_is_another_drawing(opened):
    seen = [opened.canvas("right")]
    assert opened.canvas("left") != seen[0]
    for selector, text in (
        ("#view-right", "WebP"),
        ("#view-right", "Original"),
        ("#view-picture", "two.png"),
    ):
        opened.choose(selector, text)
        now = opened.canvas("right")
        assert now not in seen or text == "WebP"
        seen.append(now)
    left = opened.canvas("left")
    opened.run(
        "const s = document.getElementById('view-rate'); s.selectedIndex = 0;"
        "s.dispatchEvent(new Event('change'))"
    )
    assert opened.canvas("left") != left
    assert opened.canvas("right") == seen[-1]  # the original has no rate


def test_the_right_picture_has_the_nearest_rate_and_captions_say_it(opened):
    data = opened.run("return report.pictures[0]")
    opened.choose("#view-right", "WebP")
    for place, entry in enumerate(data["codecs"]["0"]):
        opened.run(
            "const s = document.getElementById('view-rate'); s.selectedIndex = arguments[0];"
            "s.dispatchEvent(new Event('change'))",
            place,
        )
        others = data["codecs"]["1"]
        nearest = min(others, key=lambda other: abs(other["bpp"] - entry["bpp"]))
        caption = opened.find("#caption-right").text
        assert f"{nearest['bytes']:,} bytes" in caption
        assert f"PSNR {nearest['psnr']:.2f} dB" in caption
        assert f"MS-SSIM {nearest['ms_ssim']:.4f}" in caption
        assert f"{entry['bpp']:.3f} bpp" in opened.find("#caption-left").text


def test_the_error_map_is_drawn_and_has_a_gain(opened):
    picture = opened.canvas("left")
    opened.click("#error-map")
    first = opened.canvas("left")
    assert first != picture
    assert opened.find("#error-top").text == "31"
    opened.press("#error-gain", "\ue014")
    assert opened.find("#error-top").text == "15"
    assert opened.canvas("left") != first
    opened.choose("#view-right", "Original")
    assert opened.canvas("right") == [0, 0, 4, 255] * 100  # no error anywhere
    opened.click("#error-map")
    assert opened.canvas("left") == picture


def test_zoom_by_buttons_keys_and_wheel_is_the_same_for_both(opened):
    fit = opened.scale()
    opened.click("#zoom-in")
    assert opened.scale() > fit
    assert "pixels" in opened.find("#canvas-left").get_attribute("class")
    opened.click("#zoom-fit")
    assert opened.scale() == fit
    opened.press("#stage", "+", "+")
    twice = opened.scale()
    assert twice > fit
    before = opened.run("return document.getElementById('canvas-left').style.transform")
    opened.press("#stage", "\ue014")  # arrow right moves the picture
    assert opened.run("return document.getElementById('canvas-left').style.transform") != before
    opened.press("#stage", "-")
    assert opened.scale() < twice
    opened.press("#stage", "0")
    assert opened.scale() == fit
    stage = opened.show("#stage")
    opened.actions().move_to_element_with_offset(stage, 20, 20).perform()
    opened.actions().move_to_element_with_offset(stage, 40, 30).perform()
    opened.run(
        "document.getElementById('stage').dispatchEvent(new WheelEvent('wheel',"
        "{deltaY: -300, clientX: 600, clientY: 400, bubbles: true, cancelable: true}))"
    )
    assert opened.scale() > fit


def test_a_magnified_picture_is_dragged(opened):
    stage = opened.show("#stage")
    opened.press("#stage", "+", "+", "+")
    border = opened.border()
    move = "return new DOMMatrix(document.getElementById('canvas-left').style.transform).e"
    before = opened.run(move)
    opened.actions().move_to_element_with_offset(stage, -80, 40).click_and_hold().move_by_offset(
        30, 0
    ).release().perform()
    assert opened.run(move) == pytest.approx(before + 30, abs=2)
    assert opened.border() == border


def test_a_phone_scrolls_down_only(opened, page):
    opened.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 375, "height": 812, "deviceScaleFactor": 2, "mobile": True},
    )
    opened.driver.get(page.as_uri())
    opened.drawn()
    opened.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
    opened.click("#error-map")
    assert opened.run("return [document.documentElement.scrollWidth, innerWidth]") == [375, 375]
    wide = opened.run(
        "return [...document.querySelectorAll('main *, header *, .toolbar *')].filter(e =>"
        "e.getBoundingClientRect().right > 376 && !e.closest('.box, .stage, .chart, .unseen'))"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []
    assert opened.trouble() == []
