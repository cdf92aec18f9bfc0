"""The site as a reader sees it: built strictly, opened in a browser, wide and narrow, light and dark."""

from __future__ import annotations

import functools
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from html import unescape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py.course.manifest import project_root

ROOT = project_root(Path(__file__).resolve())
BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
#: Smallest ratio of contrast between text and ground, from the Web Content Accessibility Guidelines, level AA.
READABLE_CONTRAST = 4.5

pytestmark = [
    pytest.mark.serial,
    pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs is absent: pip install -e '.[docs]'"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; the build itself fails on any warning."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert built.returncode == 0, built.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the site is served while the labs run."""
    shutil.copy(Path(__file__).parent / "probe.html", site / "probe.html")
    handler = functools.partial(QuietHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def looks(site: Path, address: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the browser found on every page, in each width and colour scheme."""
    if BROWSER is None:
        pytest.skip("no chromium on the path: apt-get install chromium")
    pages = [f"/{path.parent.relative_to(site).as_posix()}/" for path in sorted(site.rglob("index.html"))]
    pages = [page.replace("/./", "/") for page in pages]
    fragment = urllib.parse.quote(json.dumps(pages))
    shown = subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "--window-size=1400,1000"),
            f"--user-data-dir={tmp_path_factory.mktemp('browser')}",
            *("--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--virtual-time-budget=600000"),
            f"{address}/probe.html#{fragment}",
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    found = re.search(r'<pre id="result">(.*?)</pre>', shown.stdout, re.DOTALL)
    assert found is not None and found[1] != "unfinished", shown.stderr[-2000:]
    result: list[dict[str, Any]] = json.loads(unescape(found[1]))
    assert len(result) == 4 * len(pages)
    return result


@pytest.mark.timeout(600)
def test_every_page_has_a_heading_and_text(looks: list[dict[str, Any]]) -> None:
    assert {(look["page"], look["heading"]) for look in looks if not look["heading"] or look["words"] < 40} == set()


@pytest.mark.timeout(600)
def test_no_page_scrolls_sideways(looks: list[dict[str, Any]]) -> None:
    """Wide code and tables scroll in their own box; the page itself never does, also on a telephone."""
    assert [(look["page"], look["width"], look["wide"]) for look in looks if look["overflow"] > 1 or look["wide"]] == []


@pytest.mark.timeout(600)
def test_no_quote_is_left_unexpanded_and_no_image_broken(looks: list[dict[str, Any]]) -> None:
    assert [(look["page"], look["unexpanded"]) for look in looks if look["unexpanded"]] == []
    assert [(look["page"], look["broken_images"]) for look in looks if look["broken_images"]] == []


@pytest.mark.timeout(600)
def test_text_is_readable_in_light_and_dark(looks: list[dict[str, Any]]) -> None:
    weak = [
        (look["page"], look["scheme"], look["text"], look["ground"])
        for look in looks
        if contrast(look["text"], look["ground"]) < READABLE_CONTRAST
    ]
    assert weak == []
    assert {look["ground"] for look in looks if look["scheme"] == "default"}.isdisjoint(
        {look["ground"] for look in looks if look["scheme"] == "slate"}
    )


def contrast(text: str, ground: str) -> float:
    """Return the ratio of contrast between two CSS colours; text may be translucent."""
    under = colour(ground)[:3]
    *over, alpha = colour(text)
    blended = tuple(alpha * part + (1 - alpha) * base for part, base in zip(over, under, strict=True))
    light, dark = sorted((luminance(blended), luminance(under)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def colour(css: str) -> tuple[float, float, float, float]:
    red, green, blue, *alpha = (float(part) for part in re.findall(r"[\d.]+", css))
    return red, green, blue, alpha[0] if alpha else 1.0


def luminance(parts: tuple[float, ...]) -> float:
    linear = [part / 255 / 12.92 if part / 255 <= 0.04045 else ((part / 255 + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast_is_that_of_the_guidelines() -> None:
    """Black on white has ratio 21, the same colour has 1, half-transparent black is weaker."""
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(7, 7, 7)", "rgb(7, 7, 7)") == pytest.approx(1)
    assert contrast("rgba(0, 0, 0, 0.5)", "rgb(255, 255, 255)") == pytest.approx(3.98, abs=0.05)
