"""The table of problems; a new problem is one entry in the table of its kind."""

from __future__ import annotations

from ocnopt_lab.errors import LabError
from ocnopt_lab.problems.classifiers import CLASSIFIERS
from ocnopt_lab.problems.flows import FLOWS
from ocnopt_lab.problems.language import LANGUAGE
from ocnopt_lab.problems.ode_classifiers import ODE_CLASSIFIERS
from ocnopt_lab.problems.problem import Problem
from ocnopt_lab.problems.regressions import REGRESSIONS
from ocnopt_lab.problems.trajectories import TRAJECTORIES

GROUPS = {
    "Classification": CLASSIFIERS,
    "Language": LANGUAGE,
    "Regression and reconstruction": REGRESSIONS,
    "Trajectories of dynamical systems": TRAJECTORIES,
    "Classification with Neural ODEs": ODE_CLASSIFIERS,
    "Densities": FLOWS,
}
PROBLEMS = {problem.name: problem for group in GROUPS.values() for problem in group}


def get(name: str) -> Problem:
    """The problem `name`, or a sentence with the names there are."""
    if name not in PROBLEMS:
        raise LabError(f"There is no problem {name!r}; choose one of {', '.join(PROBLEMS)}.")
    return PROBLEMS[name]
