"""Named training problems: a data set, a network and how it is usually trained."""

from ocnopt_lab.problems.registry import PROBLEMS, Problem, get

__all__ = ["PROBLEMS", "Problem", "get"]
