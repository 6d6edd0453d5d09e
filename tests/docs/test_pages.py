"""Every example on the pages runs, every command is one, every link leads somewhere."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tyro
from page_parts import PAGES, ROOT, anchors, blocks, links

from ocnopt_lab import cli
from ocnopt_lab.commands import COMMANDS
from ocnopt_lab.commands.compare import Compare
from ocnopt_lab.commands.doctor import Doctor
from ocnopt_lab.commands.policy import Policy
from ocnopt_lab.commands.report import Report
from ocnopt_lab.commands.train import Train

NEEDS = {"trainers.md": ("lightning", "transformers", "accelerate")}
CHEAP = {"digits-fcn", "wine-fcn"}
SMALL_STUDY = ("--seeds", "1", "--epochs", "1", "--train-samples", "320", "--sweep", "none")
by_name = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@by_name
def test_examples_run_in_the_order_of_the_page(page: Path, apart: Path) -> None:
    """Python in one namespace, and between it the commands that are cheap; all others must at least parse."""
    for name in NEEDS.get(page.name, ()):
        pytest.importorskip(name, reason=f"{page.name} needs {name}, of the extra 'trainers'.")
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks(page):
        if block.language == "python":
            text = "\n" * (block.line - 1) + block.text  # so that a traceback names the line of the page
            if file := re.match(r"# (\w+\.py)\n", block.text):  # a file that later commands of the page read
                Path(file[1]).write_text(block.text)
            exec(compile(text, str(page), "exec"), namespace)
        for command in block.commands():
            follow(shlex.split(command))
            forget_accelerate()
        forget_accelerate()


def forget_accelerate() -> None:
    """Its precision is set once for a whole process, and the examples of a page share one."""
    if "accelerate" in sys.modules:
        sys.modules["accelerate"].state.AcceleratorState._reset_state(reset_partial_state=True)
        sys.modules["accelerate"].state.GradientState._reset_state()


def follow(words: list[str]) -> None:
    if words[0] == "ocnopt":
        ocnopt(words[1:])
    elif words[0] == "make":
        assert all(re.search(rf"^{word}:", (ROOT / "Makefile").read_text(), re.MULTILINE) for word in words[1:])
    elif words[0] == "torchrun":
        done = subprocess.run([sys.executable, "-m", "torch.distributed.run", *words[1:]], cwd=ROOT, timeout=240)
        assert done.returncode == 0
    elif words[0] == "python":
        (example if words[1].startswith("examples/") else script)(Path(words[1]), words[2:])
    else:
        assert words[:2] == ["pip", "install"], f"Teach this test the command {words[0]!r}."


def ocnopt(arguments: list[str]) -> None:
    command = tyro.cli(COMMANDS, args=arguments)
    if isinstance(command, Train) and (command.resume or command.problem in CHEAP):
        assert cli.main(shortened(arguments)) == 0
    elif isinstance(command, Compare) and set(command.problems) <= CHEAP:
        assert cli.main([*arguments, *SMALL_STUDY]) == 0
    elif arguments == ["problems"] or isinstance(command, Doctor | Policy | Report):
        assert cli.main(arguments) == 0


def shortened(arguments: list[str]) -> list[str]:
    """One epoch on few samples, so that the pages are quick to check. A resumed run has its options already."""
    if "--resume" in arguments:
        return arguments
    kept = list(arguments)
    if "--epochs" in kept:
        at = kept.index("--epochs")
        del kept[at : at + 2]
    return [*kept, "--epochs", "1", "--quiet"]


def example(path: Path, arguments: list[str]) -> None:
    """One epoch of it; tests/trainers run more."""
    spec = importlib.util.spec_from_file_location(path.stem, ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main([*arguments, "--epochs", "1"])


def script(path: Path, arguments: list[str]) -> None:
    """A script of this repository must take the arguments."""
    assert (ROOT / path).exists()
    sys.path.insert(0, str((ROOT / path).parent))
    try:
        module = __import__(path.stem)
        (kind,) = (x for x in vars(module).values() if isinstance(x, type) and x.__module__ == module.__name__)
        tyro.cli(kind, args=arguments)
    finally:
        sys.path.pop(0)


@by_name
def test_links_lead_somewhere(page: Path) -> None:
    for _, target in links(page):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            file = page if not path else page.parent / path
            assert file.exists(), f"{page.name} points to {target}, which does not exist."
            assert not anchor or anchor in anchors(file), f"{page.name} points to {target}: no such heading."


def test_the_readme_shows_what_the_demo_drew() -> None:
    pictures = [target for image, target in links(ROOT / "README.md") if image]
    assert "docs/images/demo.png" in pictures
    assert (ROOT / "docs/images/demo.png").read_bytes().startswith(b"\x89PNG")


def test_every_page_is_named_in_the_readme() -> None:
    named = {target for _, target in links(ROOT / "README.md")}
    assert {f"docs/{page.name}" for page in PAGES if page.parent.name == "docs"} <= named


def test_a_wrong_command_is_seen() -> None:
    """This test would be idle if parsing accepted anything."""
    with pytest.raises(SystemExit):
        ocnopt(["train", "mnist-fcn", "--no-such-option", "1"])
    with pytest.raises(AssertionError):
        follow(["make", "nothing"])
    with pytest.raises(AssertionError):
        follow(["rm", "file"])
    assert replace(Train(), problem="wine-fcn").problem in CHEAP
