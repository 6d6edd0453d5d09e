"""One page that loads nothing: style, figures and tables are inside."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

import ocnopt
from ocnopt_lab.reports import parts
from ocnopt_lab.reports.reading import Finding, RunFound, StudyFound

_MARKDOWN = MarkdownIt("commonmark", {"html": False})


def render(title: str, command: str, found: Sequence[Finding]) -> str:
    """HTML of all findings: studies first, then runs, a part for each problem.

    command: what was typed to make this page.
    """
    environment = Environment(
        loader=PackageLoader("ocnopt_lab.reports", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["markdown"] = markdown
    machines = [x.environment if isinstance(x, RunFound) else x.told["environment"] for x in found]
    return environment.get_template("page.html.j2").render(
        title=title,
        command=command,
        version=ocnopt.__version__,
        parts=parts_of(found),
        machines=parts.machines(machines),
    )


def parts_of(found: Sequence[Finding]) -> list[parts.Part]:
    """Studies as they come, and the runs by problem."""
    studies = [parts.of_study(x) for x in found if isinstance(x, StudyFound)]
    runs = [x for x in found if isinstance(x, RunFound)]
    names = dict.fromkeys(run.config.problem for run in runs)
    return studies + [parts.of_problem([run for run in runs if run.config.problem == name]) for name in names]


def markdown(text: str) -> Markup:
    """A sentence or paragraph with its emphasis, code and links; HTML in it is shown as it stands."""
    return Markup(_MARKDOWN.render(text))
