"""The architecture of DESIGN section 4, read off the source: imports go one way, files and functions stay small."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "src" / "ocnopt"
FILES = sorted(ROOT.rglob("*.py"))

LAYERS: tuple[tuple[str, ...], ...] = (
    ("linalg", "pde"),
    ("core",),
    ("players", "curvature"),
    ("game", "ode"),
    (
        *("seats", "gathering", "updates", "solving", "reporting", "options", "passes", "planning", "measuring"),
        *("stateful", "evaluating", "predicting", "trials", "judging", "layout", "scaling", "distributed", "searching"),
        *("accelerating", "played", "versions", "observing", "inspecting", "memory", "finiteness", "guarding"),
    ),
    ("optim",),
    ("__init__", "sklearn", "integrations", "monitoring"),
)
"""Parts of the package from the ground up: a part may import what lies below it, and from its own part."""

OPTIONAL = {"ode": {"torchdiffeq"}, "sklearn": {"sklearn", "numpy"}}
"""What a part needs beyond torch; ``import ocnopt`` does not import the part."""

CALLERS = {"reporting": {"rich"}}
"""What a part imports only where it is called by it, and therefore never when the part is imported."""

LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
TOGETHER = {level for level, parts in enumerate(LAYERS) if "seats" in parts}
"""Levels whose parts may also import one another."""

MAX_LINES, MAX_BODY, MAX_ARGUMENTS = 260, 45, 9

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))

Function = ast.FunctionDef | ast.AsyncFunctionDef


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imported(file: Path) -> Iterator[str]:
    """Absolute dotted names of all modules that the file imports, also inside functions."""
    package = ("ocnopt", *file.relative_to(ROOT).parent.parts)
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def part_of(name: str) -> str:
    """The part of the package that a dotted name of ocnopt lies in."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LEVEL else "__init__"


def own_part(file: Path) -> str:
    return file.relative_to(ROOT).with_suffix("").parts[0]


def allowed(importer: str, target: str) -> bool:
    if importer == target:
        return True
    low, high = LEVEL[target], LEVEL[importer]
    return low < high or (low == high and low in TOGETHER)


@each_file
def test_every_file_has_a_place(file: Path) -> None:
    assert own_part(file) in LEVEL, f"say in LAYERS where {own_part(file)} belongs"


@each_file
def test_imports_go_one_way(file: Path) -> None:
    inside = (name for name in imported(file) if name.split(".")[0] == "ocnopt")
    wrong = [name for name in inside if not allowed(own_part(file), part_of(name))]
    assert not wrong, f"{own_part(file)} may not import {wrong}"


@each_file
def test_nothing_but_torch_and_the_standard_library(file: Path) -> None:
    """The laboratory, which may import anything, is never imported by the library. Extras serve single parts."""
    part = own_part(file)
    known = {"ocnopt", "torch", *sys.stdlib_module_names, *OPTIONAL.get(part, ()), *CALLERS.get(part, ())}
    assert {name.split(".")[0] for name in imported(file)} <= known


@pytest.mark.parametrize("part", CALLERS)
def test_callers_are_imported_inside_of_functions(part: str) -> None:
    file = ROOT / f"{part}.py"
    module = tree(file)
    inner = {id(x) for f in ast.walk(module) if isinstance(f, Function) for x in ast.walk(f)}
    outer = [x for x in ast.walk(module) if isinstance(x, ast.Import | ast.ImportFrom) and id(x) not in inner]
    names = {alias.name for x in outer for alias in x.names} | {getattr(x, "module", None) or "" for x in outer}
    assert not {name.split(".")[0] for name in names} & CALLERS[part]
    assert {name.split(".")[0] for name in imported(file)} >= CALLERS[part]


def test_optional_parts_are_imported_by_nobody() -> None:
    """But for what of ode only listens to solvers, and imports none of them before it must."""
    importers = [file for file in FILES if own_part(file) not in OPTIONAL]
    parts = {part_of(name) for file in importers for name in imported(file) if "ocnopt" in name}
    assert not parts & set(OPTIONAL) - {"ode"}


@each_file
def test_files_are_short(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@each_file
def test_functions_are_short_and_take_few_arguments(file: Path) -> None:
    functions = [node for node in ast.walk(tree(file)) if isinstance(node, Function)]
    long = [f"{f.name}: {body_lines(f)} lines" for f in functions if body_lines(f) > MAX_BODY]
    wide = [f"{f.name}: {count_arguments(f)} arguments" for f in functions if count_arguments(f) > MAX_ARGUMENTS]
    assert not long + [entry for entry in wide if not entry.startswith("__init__:")]


def body_lines(function: Function) -> int:
    """Lines of the body, the docstring left out."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def count_arguments(function: Function) -> int:
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return sum(a is not None and a.arg not in ("self", "cls") for a in every)


def test_the_checks_would_notice() -> None:
    assert not allowed("core", "players")
    assert not allowed("players", "curvature")
    assert not allowed("curvature", "optim")
    assert not allowed("seats", "optim")
    assert allowed("gathering", "seats")
    assert part_of("ocnopt.core.policy.Step") == "core"
    assert "ocnopt.core.capture.Capture" in set(imported(ROOT / "optim.py"))
    assert body_lines(ast.parse('def f():\n    """d"""\n    a\n    b').body[0]) == 2  # type: ignore[arg-type]
    assert count_arguments(ast.parse("def f(self, a, /, b, *c, d, **e): pass").body[0]) == 5  # type: ignore[arg-type]
