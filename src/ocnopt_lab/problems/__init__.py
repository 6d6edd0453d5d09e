"""Named training problems: a data set, a network and how it is usually trained."""

from ocnopt_lab.problems.problem import Problem
from ocnopt_lab.problems.registry import GROUPS, PROBLEMS, get

__all__ = ["GROUPS", "PROBLEMS", "Problem", "get"]
