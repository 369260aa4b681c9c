"""The report: complete, self-contained, readable without a network, quiet in a browser."""

# ruff: noqa: F811 - fixtures are imported by name and shadowed by arguments

from __future__ import annotations

import base64
import os
import re
import shutil
import struct
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_up_numbers import made_up  # noqa: F401 - a fixture, used by name

from pogson.report import ExposureRecord, ReportData, StarResiduals, render_html, write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def html(made_up: ReportData) -> str:
    return render_html(made_up, made="2026-01-01")


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.external: list[str] = []
        self.anchors: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href") and value:
                if value.startswith("#"):
                    self.anchors.append(value[1:])
                elif not value.startswith("data:"):
                    self.external.append(value)
            if name == "id" and value:
                self.ids.append(value)


def test_self_contained_with_working_contents(html: str) -> None:
    links = Links()
    links.feed(html)
    assert links.external == []
    assert not re.search(r"url\(|@import|https?://", html)
    assert set(links.anchors) <= set(links.ids)
    assert len(links.ids) == len(set(links.ids)) >= 14


def test_everything_asked_for_is_there(html: str) -> None:
    for title in ("Exposures on the sky", "Zero point of each exposure", "Residuals against "
                  "magnitude and colour", "Residuals against position", "Residuals against airmass",
                  "Aperture growth", "Pulls", "Repeatability", "Pixel area", "Backgrounds",
                  "What was rejected, and why", "Truth beside result"):  # fmt: skip
        assert title in html
    assert "v01.fits is truncated; fetch it again." in html
    assert "more than 4 sigma from the fit" in html


def test_no_picture_is_blank(html: str) -> None:
    from matplotlib.image import imread

    pictures = re.findall(r"base64,([A-Za-z0-9+/=]+)", html)
    assert len(pictures) == 12
    import io

    for picture in pictures:
        raw = base64.b64decode(picture)
        width, height = struct.unpack(">II", raw[16:24])
        assert width > 500
        assert height > 300
        pixels = imread(io.BytesIO(raw))[..., :3]
        assert np.mean(np.any(pixels < 0.9, axis=-1)) > 0.005  # some ink


def test_same_data_same_text(made_up: ReportData) -> None:
    assert render_html(made_up) == render_html(made_up)


def test_text_from_files_is_escaped() -> None:
    record = ExposureRecord("<b>k</b>", "<script>", "", "g", "failed", "<img src=x>", {}, ())
    page = render_html(ReportData(title="<i>t</i>", exposures=(record,), config_text="</pre><hr>"))
    for bad in ("<b>k", "<script>\n<", "<img src=x", "<i>t", "</pre><hr>"):
        assert bad not in page


def test_a_run_where_everything_failed_still_gets_a_report() -> None:
    record = ExposureRecord("k", "e", "1", "g", "failed", "all pixels are masked", {}, ())
    page = render_html(ReportData(title="nothing", exposures=(record,)))
    assert "all pixels are masked" in page
    assert "base64" not in page
    assert "No exposure has a known position." in page


@pytest.mark.parametrize("n", [1, 2])
def test_few_stars_and_missing_numbers(made_up: ReportData, n: int) -> None:
    stars = StarResiduals([0] * n, ["g"] * n, [np.nan] * n, [np.nan] * n, [1.0] * n, [2.0] * n,
                          [0.0] * n, [np.nan] * n, [True] * n)  # fmt: skip
    few = replace(made_up, stars=stars, exposures=made_up.exposures[:1], growth=(), truth=None)
    assert "Truth" not in render_html(few)


def test_written_whole_or_not_at_all(made_up: ReportData, tmp_path: Path) -> None:
    path = write_report(replace(made_up, title="again"), tmp_path / "sub" / "report.html")
    assert path.read_text().startswith("<!doctype html>")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def browser() -> str:
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    pytest.skip(f"no headless browser found ({', '.join(BROWSERS)}); install Debian's chromium")


def dump_dom(page: Path, profile: Path) -> tuple[str, str]:
    """Return the DOM after scripts ran, and what the browser wrote."""
    done = subprocess.run(
        [
            browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={profile}", "--enable-logging=stderr", "--v=0",
            "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "HOME": str(profile)},
    )  # fmt: skip
    return done.stdout, done.stderr


def test_renders_in_headless_chromium_without_console_errors(html: str, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    # sort a table by a click too: the script must work, not only load
    click = (
        "<script>window.onerror=function(m){document.documentElement.dataset.broken=m;};"
        "addEventListener('load',function(){"
        "document.querySelectorAll('table.sortable th')[4].click();"
        "});</script></body>"
    )
    page.write_text(html.replace("</body>", click))
    dom, said = dump_dom(page, tmp_path / "profile")
    assert 'data-ready="yes"' in dom, said[-2000:]
    assert "data-broken" not in dom
    assert 'aria-sort="ascending"' in dom
    console = [line for line in said.splitlines() if "CONSOLE" in line]
    assert console == []
