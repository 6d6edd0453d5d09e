"""The tables of the pages say what the code does: names, options, defaults, messages, counts."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
from page_parts import ROOT, Table, code, tables

from ocnopt import OCNOpt, curvature
from ocnopt.core import acceptance, search, terminal, unseen
from ocnopt.game import kinds
from ocnopt.options import ROLLOUTS, SEARCHES, TERMINALS, VALUES
from ocnopt_lab.problems import GROUPS, PROBLEMS
from ocnopt_lab.runs import folder, trajectories
from ocnopt_lab.studies.ablation import AXES
from ocnopt_lab.studies.methods import METHODS
from ocnopt_lab.studies.results import Results
from ocnopt_lab.studies.summaries import Result

OPTIONS, TROUBLE, RUNS, HOW, PAGE, STUDIES = (
    ROOT / "docs" / f"{name}.md"
    for name in ("options", "troubleshooting", "runs", "how-it-works", "problems", "studies")
)
CLASSES = {
    **{kind.__name__: kind for kind in curvature.TABLE.values()},
    **{kind.__name__: kind for kind in (terminal.Auto, terminal.Gradient, terminal.Fisher, search.Model)},
    **{kind.__name__: kind for kind in (kinds.Cooperative, kinds.ProductCooperative)},
    **{kind.__name__: kind for kind in (acceptance.LevenbergMarquardt, acceptance.Backtracking)},
    "StochasticLevenbergMarquardt": unseen.StochasticLevenbergMarquardt,
}
NAMES = {
    "curvature": curvature.TABLE,
    "terminal": TERMINALS,
    "value": VALUES,
    "rollout": ROLLOUTS,
    "search": SEARCHES,
    "game": kinds.KINDS,
}


def under(page: Path, heading: str) -> Table:
    (table,) = (table for table in tables(page) if table.heading == heading)
    return table


def written(table: Table) -> dict[str, Any]:
    """Option → default as the page has them."""
    defaults = {}
    for name, default, *_ in table.rows:
        text = default.strip("`")
        defaults[code(name)[0]] = MISSING if text == "required" else eval(text, vars(curvature).copy())
    return defaults


def coded(kind: type) -> dict[str, Any]:
    """Option → default of a dataclass."""
    pairs = ((f.name, f.default if f.default_factory is MISSING else f.default_factory()) for f in fields(kind))
    return dict(pairs)


@pytest.mark.parametrize("name", CLASSES)
def test_options_and_defaults_are_those_of_the_class(name: str) -> None:
    assert written(under(OPTIONS, name)) == coded(CLASSES[name])


def test_arguments_and_defaults_are_those_of_the_optimizer() -> None:
    parameters = list(inspect.signature(OCNOpt.__init__).parameters.values())[1:]
    found = {p.name: MISSING if p.default is p.empty else p.default for p in parameters}
    assert written(under(OPTIONS, "OCNOpt")) == found


@pytest.mark.parametrize("axis", NAMES)
def test_names_are_those_that_are_accepted(axis: str) -> None:
    found = {code(row[0])[0]: row[1].strip("`") for row in under(OPTIONS, axis).rows}
    made = {name: make() if axis in ("search", "game") else make for name, make in NAMES[axis].items()}
    known = {name: getattr(x, "__name__", type(x).__name__) for name, x in made.items()}
    assert found == {name: "none" if kind == "NoneType" else kind for name, kind in known.items()}


def test_rates_are_those_of_the_curvatures() -> None:
    found = {code(row[0])[0]: float(row[2].strip("`")) for row in under(OPTIONS, "curvature").rows}
    assert found == {name: kind.default_lr for name, kind in curvature.TABLE.items()}
    told = next(r[2] for r in under(OPTIONS, "OCNOpt").rows if r[0] == "`lr`")
    assert all(f"step, {kind.default_lr} if left out" in told for kind in (search.Bounded, search.Model))


def texts(root: str) -> Iterator[str]:
    """All strings of a package, with … for what is filled in."""
    for file in (ROOT / "src" / root).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_messages_are_those_of_the_code() -> None:
    """A message on the page stands in the code, word for word, up to where the page ends it with …"""
    known = [*texts("ocnopt"), *texts("ocnopt_lab")]
    for table in tables(TROUBLE):
        if table.header[0] == "message":
            for row in table.rows:
                message = code(row[0])[0].rstrip("…. ")
                assert any(text.startswith(message) for text in known), f"No message begins with {message!r}."


def raised() -> Iterator[str]:
    """The messages of all ValueError, TypeError and RuntimeError that the library raises as literals."""
    for file in (ROOT / "src" / "ocnopt").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                argument = node.exc.args[0]
                name = ast.unparse(node.exc.func)
                if name in ("ValueError", "TypeError") and isinstance(argument, ast.JoinedStr | ast.Constant):
                    yield next(iter_text(argument))


def iter_text(node: ast.expr) -> Iterator[str]:
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)


# Not for users: an invariant of the engine.
INTERNAL = {"No gradient arrived at any output of this call."}


def test_every_message_is_on_the_page() -> None:
    listed = [code(row[0])[0].rstrip("…. ") for t in tables(TROUBLE) if t.header[0] == "message" for row in t.rows]
    missing = [text for text in raised() if not any(text.startswith(start) for start in listed)]
    assert set(missing) <= INTERNAL


def test_counts_are_those_of_the_code() -> None:
    """Every name that the library counts under, and no other."""
    listed = {name for t in tables(TROUBLE) if t.header[0] == "count" for row in t.rows for name in code(row[0])}
    source = "\n".join(file.read_text() for file in (ROOT / "src" / "ocnopt").rglob("*.py"))
    counted = set(re.findall(r'tally\["([^"]+)"\]', source))
    counted |= set(re.findall(r'\bcount = "([^"]+)"', source))
    counted |= set(re.findall(r'"((?:cholesky|eigh) (?:in|with) \w+)"', source))
    counted |= {f"nonlinear roll-out {reason}" for reason in re.findall(r'raise Unrepeatable\("([^"]+)"\)', source)}
    assert listed == counted


def test_files_of_a_run_are_listed() -> None:
    listed = {name for row in under(RUNS, "The run folder").rows for name in code(row[0])}
    assert {folder.CONFIG, folder.METRICS, folder.SUMMARY, folder.CURVES} <= listed
    assert {folder.ALIGNMENTS, folder.ALIGNMENTS_PICTURE, trajectories.NAME} <= listed


@pytest.mark.parametrize("group", GROUPS)
def test_problems_are_those_of_the_code(group: str) -> None:
    """Every problem of a group, with its network, data, batch size and epochs."""
    found = [(code(name)[0], *cells) for name, *cells in under(PAGE, group).rows]
    known = [(p.name, p.description, f"`{p.data}`", f"{p.batch_size}", f"{p.epochs}") for p in GROUPS[group]]
    assert found == known


def test_scores_are_those_of_the_tasks() -> None:
    listed = {code(row[0])[0]: set(code(row[2])) for row in under(RUNS, "Scores").rows}
    tasks = {problem.task for problem in PROBLEMS.values()}
    known = {
        task.name: {f"{part}_{key}" for part in ("train", "test") for key in task.scores(0.0, 0.0) if key != "loss"}
        for task in tasks
    }
    assert listed == known


def test_methods_of_studies_are_those_of_the_code() -> None:
    listed = [name for row in under(STUDIES, "Compare optimizers").rows for name in code(row[0])]
    assert sorted(listed) == sorted(METHODS)


def test_axes_of_ablations_are_those_of_the_code() -> None:
    rows = under(STUDIES, "Take the feedback away").rows
    listed = {code(axis)[0]: (code(option)[0], tuple(code(values))) for axis, option, values in rows}
    assert listed == {axis: (option, tuple(map(str, values))) for axis, (option, values) in AXES.items()}


def test_keys_of_results_are_those_of_the_code() -> None:
    listed = [code(row[0])[0] for row in under(STUDIES, "What a study leaves behind").rows]
    run = Result("p", "m", 0, 0.1, 0.5, 1.0, 0.1, False, {})
    assert listed == list(Results("compare", "", [], [run], [], []).to_dict())


def test_reasons_of_a_step_are_those_of_the_code() -> None:
    """Every reason on the page stands in the code, and every one that the code gives is on the page."""
    (table,) = (table for table in tables(HOW) if table.header[0] == "reason")
    listed = {code(row[0])[0].split("…")[0].strip(" ,") for row in table.rows}
    known = {text.split("…")[0].strip(" ,") for text in texts("ocnopt")} - {""}
    given = {text for text in known if re.match(r"converged:|no decrease|an error has|no parameter has|the lea", text)}
    assert given and all(any(reason.startswith(text) for text in known) for reason in listed)
    assert all(any(reason.startswith(text) or text.startswith(reason) for reason in listed) for text in given)
