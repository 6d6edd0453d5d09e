"""Reports: what they hold, that they load nothing, and how a browser shows them."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shlex
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest
import tyro
from PIL import Image

from ocnopt_lab.cli import main
from ocnopt_lab.commands import COMMANDS
from ocnopt_lab.commands.train import Train
from ocnopt_lab.runs import folder
from ocnopt_lab.studies.results import Picture, Results, Table
from ocnopt_lab.studies.summaries import Result

MACHINE = {"cpu": "abacus", "system": "none", "python": "3.0", "torch": "9.9", "ocnopt": "0"}
MACHINE |= {"cores": 1, "threads": 1, "memory_mb": 8}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = os.environ.get("OCNOPT_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)


class Page(HTMLParser):
    """Addresses, images, cells and blocks of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.links: list[str] = []
        self.images: dict[str, str] = {}
        self.tags: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.inside = False
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs) -> None:
        named = dict(attrs)
        self.tags.append(tag)
        self.inside = True
        self.links += [named[name] for name in ("href", "src") if name in named and tag != "img"]
        self.text.setdefault(tag, []).append("")
        if tag == "img":
            self.images[named["alt"]] = named["src"]

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, content: str) -> None:
        if self.inside:
            self.text[self.tags[-1]][-1] += content


def train(out: str, *options: str) -> int:
    return main(
        ["train", "digits-fcn", "--train-samples", "64", "--eval-samples", "40", "--quiet", "--out", out, *options]
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of Adam and OCNOpt, two epochs each."""
    folder = tmp_path_factory.mktemp("runs")
    assert train(f"{folder}/ours", "--epochs", "2", "--optimizer.curvature", "kfac") == 0
    assert train(f"{folder}/adam", "--epochs", "2", "--optimizer.name", "adam", "--optimizer.betas", "0.8", "0.99") == 0
    return folder


@pytest.fixture
def two_runs(trained: Path) -> None:
    """A copy of them, in the folder runs."""
    shutil.copytree(trained, "runs")


@pytest.fixture
def study() -> Path:
    """The folder of a study with one picture, a table and a sentence."""
    path = Path("study")
    path.mkdir()
    Image.new("RGB", (40, 20), "teal").save(path / "rates.png")
    outcome = Result("digits-fcn", "adam", 0, 0.25, 0.875, 3.0, 0.01, False, MACHINE)
    table = Table("Final <scores>", ["method", "accuracy"], [["adam & co", "87.50%"]], "A *note*.")
    pictures = [Picture("rates.png", "Scores against rates")]
    Results(
        "robustness", "ocnopt robustness digits-fcn", ["**Wide** <i>enough</i>."], [outcome], [table], pictures
    ).write(path)
    return path


def test_a_report_of_runs_holds_all_that_they_are_made_of(two_runs, capsys) -> None:
    assert main(["report", "runs"]) == 0
    assert "Report: runs/report.html" in capsys.readouterr().out
    page = Page(Path("runs/report.html"))
    summary = json.loads(Path("runs/ours/summary.json").read_text())
    cells = page.text["td"]
    assert {"ocnopt-kfac", "adam", "finished", summary["environment"]["cpu"], summary["environment"]["torch"]} <= set(
        cells
    )
    assert f"{summary['test_accuracy']:.2%}" in cells and f"{summary['train_loss']:.4g}" in cells
    assert len(page.images) == 4 and page.text["title"] == ["Training of digits-fcn"]
    assert page.text["pre"][0] == "ocnopt report runs"


def test_every_figure_is_a_drawing_inside_of_the_page(two_runs) -> None:
    assert main(["report", "runs/ours", "runs/adam", "--out", "page.html"]) == 0
    page = Page(Path("page.html"))
    assert set(page.links) <= {"#part-1"} and "script" not in page.tags and "link" not in page.tags
    assert not re.search(r"(?:src|href|url|@import)\W{0,3}(?:https?:)?//", page.html)
    for caption, data in page.images.items():
        kind, _, content = data.partition(",")
        assert kind == "data:image/svg+xml;base64", caption
        assert ElementTree.fromstring(base64.b64decode(content)).tag.endswith("svg")


def test_the_command_of_a_run_leads_to_the_same_run(two_runs) -> None:
    assert main(["report", "runs"]) == 0
    commands = [shlex.split(text) for text in Page(Path("runs/report.html")).text["pre"][1:]]
    configs = []
    for words in commands:
        command = tyro.cli(COMMANDS, args=words[1:])
        assert words[0] == "ocnopt" and isinstance(command, Train)
        configs.append(command._config())
    assert configs == [folder.read_config(Path("runs") / name) for name in ("adam", "ours")]


def test_pictures_of_a_run_are_taken_along(two_runs) -> None:
    Image.new("RGB", (7, 5), "red").save("runs/ours/policy.png")
    assert main(["report", "runs/ours"]) == 0
    page = Page(Path("runs/ours/report.html"))
    data = page.images["what the layers react to, seen from the image"]
    assert Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).size == (7, 5)


def test_a_run_under_way_tells_how_far_it_is(two_runs) -> None:
    Path("runs/ours/summary.json").unlink()
    lines = Path("runs/ours/metrics.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["epoch"] <= 1]
    Path("runs/ours/metrics.jsonl").write_text("\n".join(kept) + "\n")
    assert main(["report", "runs"]) == 0
    assert "epoch 1 of 2" in Page(Path("runs/report.html")).text["td"]
    Path("runs/ours/metrics.jsonl").unlink()
    assert main(["report", "runs"]) == 0
    assert "not scored yet" in Page(Path("runs/report.html")).text["td"]


def test_a_study_is_shown_as_its_results_tell_it(study: Path) -> None:
    assert main(["report", str(study)]) == 0
    page = Page(study / "report.html")
    assert {"adam & co", "87.50%", "abacus", "9.9"} <= set(page.text["td"])
    assert page.text["pre"][-1] == "ocnopt robustness digits-fcn" and page.text["title"] == ["Training of digits-fcn"]
    assert "Scores against rates" in page.images and "Final <scores>" in page.text["h3"]
    assert "<strong>Wide</strong> &lt;i&gt;enough&lt;/i&gt;." in page.html and "<em>note</em>" in page.html


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("results.json", "{", "results.json is damaged"),
        ("results.json", "{}", "has no command, kind, problem, environment, tables, pictures"),
        ("config.json", "{", "config.json is damaged"),
        ("notes.txt", "", "broken holds neither a run nor a study"),
    ],
)
def test_what_cannot_be_reported_is_named(capsys, name: str, content: str, sentence: str) -> None:
    Path("broken").mkdir()
    (Path("broken") / name).write_text(content)
    assert main(["report", "broken"]) == 2
    assert sentence in capsys.readouterr().err


def test_without_a_folder_it_asks_for_one(capsys) -> None:
    assert main(["report"]) == 2
    assert "Which runs?" in capsys.readouterr().err


def test_a_missing_picture_of_a_study_is_named(study: Path, capsys) -> None:
    (study / "rates.png").unlink()
    assert main(["report", str(study)]) == 2
    assert "Cannot read study/rates.png" in capsys.readouterr().err


@pytest.mark.skipif(not BROWSER, reason="OCNOPT_BROWSER names no Chromium, and none is on the path")
@pytest.mark.parametrize("width", [390, 1200], ids=["phone", "desktop"])
def test_a_browser_shows_the_whole_page(two_runs, study: Path, width: int) -> None:
    """Nothing is asked of the network, every figure is drawn, and nothing but tables is wider than the window."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    assert main(["report", "runs", str(study), "--out", "page.html"]) == 0
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER)
        page = browser.new_page(viewport={"width": width, "height": 844})
        asked, said = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.goto(Path("page.html").resolve().as_uri())
        assert [url for url in asked if not url.startswith("data:")] == [Path("page.html").resolve().as_uri()]
        assert said == []
        assert page.evaluate("document.documentElement.scrollWidth") == width
        drawn = page.evaluate("[...document.images].map(i => [i.naturalWidth, i.getBoundingClientRect().width])")
        assert len(drawn) == 5 and all(natural > 0 and 0 < shown <= width for natural, shown in drawn)
        scrolls = page.evaluate("[...document.querySelectorAll('.scroll')].map(d => d.scrollWidth > d.clientWidth)")
        assert any(scrolls) == (width == 390)
        size = page.evaluate(
            "Math.min(...[...document.querySelectorAll('td, p, li, dd')].map("
            "e => parseFloat(getComputedStyle(e).fontSize)))"
        )
        assert size >= 12
        page.click("summary >> nth=0")
        assert page.is_visible("details >> nth=0 >> dl")
        browser.close()
