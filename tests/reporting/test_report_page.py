"""The page in a browser, headless Chromium."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from records import MACHINE, STRETCHED, accuracy, engine, latency, layer, profile

from deploykit.bench.record import Method
from deploykit.bench.record_file import AnyRecord
from deploykit.bench.server_scenario import Trial
from deploykit.networks.families.registry import FAMILIES
from deploykit.reporting.report.page import make_sections, render_page
from deploykit.reporting.report.predicted_members import predict_families
from deploykit.reporting.report.report_data import arrange_records

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]

# Chromium runs without a display and without checking for updates; as root it has no sandbox.
ARGUMENTS = ["--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, *root])
        yield opened
        opened.close()


class Opened:
    """An opened page, its console messages and its requests."""

    def __init__(self, browser, path: Path, *, width: int = 1280, scheme: str = "light") -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.messages.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_function(
            "() => [...document.querySelectorAll('.plot')].every((each) => each.querySelector('.main-svg'))"
        )

    def plots(self) -> dict[str, list[str]]:
        """Return the names of the visible series of each plot."""
        found: dict[str, list[str]] = self.page.evaluate(
            """() => Object.fromEntries([...document.querySelectorAll('.plot')].map((plot) => [
                plot.id.replace('plot-', ''),
                plot._fullData.filter((trace) => trace.visible === true).map((trace) => trace.name),
            ]))"""
        )
        return found

    def count_drawn(self, name: str) -> int:
        """Return how many series of a plot have something drawn."""
        return self.page.locator(f"#plot-{name} .scatterlayer .trace, #plot-{name} .barlayer .trace").count()

    def evaluate(self, script: str):
        return self.page.evaluate(script)


def records() -> list[AnyRecord]:
    """Return every kind of record that a study has, and an accuracy."""
    members = [engine(phi=phi, precision=precision) for precision in ("fp32", "int8") for phi in (0, 1, 3)]
    made: list[AnyRecord] = [accuracy(members[3], 0.76)]
    for member in members:
        ms = (10 if member.precision == "fp32" else 6) * member.macs / 1e9
        made.append(latency(member, ms))
        made += [latency(member, ms * batch, scenario="offline", batch=batch) for batch in (1, 2, 8)]
        pointwise = layer("blocks.1.0.conv_pw", "Conv", ms / 2, macs=member.macs, bound_ms=ms / 3)
        made.append(profile(member, [pointwise, layer(None, "QuickGelu", ms / 2, bound_ms=ms / 4)]))
    return [*made, *(latency(engine(scale=scale), 30.0) for scale in STRETCHED), served()]


def served() -> AnyRecord:
    trials = tuple(
        Trial(rate_per_s=rate, requests=1000, late=0, holds=holds)
        for rate, holds in ((100.0, True), (104.0, False))
    )
    method = Method(scenario="server", batch=4, threads=2, max_latency_ms=50.0)
    return replace(latency(engine(), 20.0), method=method, trials=trials)


def write(folder: Path, made: list[AnyRecord], title: str = "Report") -> Path:
    gathered = arrange_records(made)
    path = folder / "report.html"
    path.write_text(
        render_page(
            title, gathered, make_sections(gathered, predict_families([FAMILIES["efficientnet"]], ["T4"]))
        )
    )
    return path


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("report"), records())


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_plot_is_drawn_without_console_messages_or_requests(browser, report, width, scheme):
    opened = Opened(browser, report, width=width, scheme=scheme)
    plots = opened.plots()
    assert set(plots) == {
        "work",
        "accuracy",
        "batches",
        "serving",
        "distributions",
        "layers-fp32",
        "layers-int8",
        "axes-fp32-0",
    }
    assert {name: opened.count_drawn(name) for name in plots} == {
        name: len(shown) for name, shown in plots.items()
    }
    assert all(plots.values())
    assert opened.messages == []
    assert opened.requests == [report.as_uri()]
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    ground = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 28)"}[scheme]
    opened.page.close()


def test_a_hidden_series_stays_hidden_when_the_theme_changes(browser, report):
    opened = Opened(browser, report)
    assert opened.plots()["work"][:2] == ["FP32", "INT8"]
    opened.page.locator("#plot-work .legendtoggle").first.click(force=True)
    opened.page.wait_for_function("() => document.getElementById('plot-work')._fullData[0].visible !== true")
    assert opened.plots()["work"][0] == "INT8"
    opened.page.locator("#theme").click()
    assert opened.evaluate("document.documentElement.dataset.theme") == "dark"
    opened.page.wait_for_function(
        "() => document.getElementById('plot-work')._fullLayout.paper_bgcolor === '#15181c'"
    )
    assert opened.plots()["work"][0] == "INT8"
    opened.page.close()


def test_hovering_over_a_point_shows_what_it_is(browser, report):
    opened = Opened(browser, report)
    opened.page.locator("#plot-work .points path").first.hover(force=True)
    hovered = opened.page.locator("#plot-work .hoverlayer .hovertext")
    hovered.first.wait_for()
    assert "phi 0, FP32" in hovered.first.text_content()
    assert "measured" in hovered.first.text_content()
    opened.page.close()


def test_the_page_prints_in_light_colours_and_returns_to_its_theme(browser, report):
    opened = Opened(browser, report, scheme="dark")
    opened.evaluate(
        """() => window.addEventListener('beforeprint', () => {
            const plot = document.querySelector('.plot');
            window.printed = [document.documentElement.dataset.theme, plot._fullLayout.width];
        })"""
    )
    assert opened.page.pdf().startswith(b"%PDF")
    assert opened.evaluate("window.printed") == ["light", 680]
    opened.page.wait_for_function("() => document.documentElement.dataset.theme === 'dark'")
    assert opened.messages == []
    opened.page.close()


HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "<a href='javascript:alert(3)'>%{y}</a>",
    "{{ 7 * 7 }}${8 * 8}",
    'a "quoted" name & more',
)


def hostile_records(name: str) -> list[AnyRecord]:
    of = engine(family="unknown", phi=None, depth=None, width=None, name=name, compiler=name, target=name)
    machine = replace(MACHINE, name=name, system=name)
    return [
        latency(of, 4.0, runtime=name, machine=machine),
        *(latency(of, 4.0, scenario="offline", batch=batch, machine=machine) for batch in (1, 2)),
        latency(of, 5.0),
        profile(of, [layer(name, name, 1.0)]),
        accuracy(of, 0.5, data=name, model=name),
    ]


@pytest.mark.parametrize("width", [1280, 400])
def test_very_long_names_do_not_widen_the_page(browser, tmp_path, width):
    name = "efficientnet" * 200
    opened = Opened(browser, write(tmp_path, hostile_records(name), title=name), width=width)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    widths = opened.evaluate("[...document.querySelectorAll('td, th')].map((each) => each.offsetWidth)")
    assert max(widths) < 600
    plots = opened.evaluate(
        "[...document.querySelectorAll('.plot .cartesianlayer')].map((e) => e.getBBox().width)"
    )
    assert min(plots) > 0.4 * min(width, 1000)
    opened.page.close()


def test_hostile_names_stay_text(browser, tmp_path):
    opened = Opened(browser, write(tmp_path, [each for name in HOSTILE for each in hostile_records(name)]))
    assert opened.messages == []
    assert len(opened.requests) == 1
    rows = opened.page.locator("#distributions tbody th").all_text_contents()
    legend = opened.page.locator("#plot-distributions .legendtext").all_text_contents()
    for name in HOSTILE:
        assert any(name in row for row in rows)
        assert any(name in text for text in legend)
    assert opened.page.locator("svg a, .plot img, td img, td a, th a, th img").count() == 0
    opened.page.close()


def test_the_page_forbids_other_scripts_and_connections(browser, report):
    opened = Opened(browser, report)
    opened.evaluate(
        """() => {
            const script = document.createElement('script');
            script.textContent = 'window.ran = true';
            document.body.append(script);
            const image = document.createElement('img');
            image.src = 'http://127.0.0.1:9/x.png';
            document.body.append(image);
        }"""
    )
    opened.page.wait_for_timeout(200)
    assert opened.evaluate("window.ran") is None
    assert sum("Content Security Policy" in message for message in opened.messages) == 2
    opened.page.close()
