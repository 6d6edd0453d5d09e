"""From what stands on the command line to a module: `file.py:attribute`, `package.module:attribute`, a problem."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from ocnopt_lab import data, problems
from ocnopt_lab.errors import LabError


@dataclass(frozen=True)
class Target:
    """A model and how it was called; shape: of one of its inputs, where that is known."""

    name: str
    model: nn.Module
    shape: tuple[int, ...] | None = None


def find(text: str, data_dir: Path | None = None) -> Target:
    """The model that the text names. Raises LabError, with a sentence, where there is none."""
    if text in problems.PROBLEMS:
        return of_problem(text, data_dir)
    place, colon, attribute = text.rpartition(":")
    if not colon:
        place, attribute = text, ""
    if place.endswith(".py"):
        module = imported(place, lambda: from_file(Path(place)))
    elif colon:
        module = imported(place, lambda: from_path(place))
    else:
        raise LabError(
            f"{text!r} is no problem and no Python file; write file.py, file.py:attribute, package.module:attribute, "
            f"or one of {', '.join(problems.PROBLEMS)}."
        )
    value = attribute_of(module, attribute, place) if attribute else only_model(module, place)
    return Target(text, built(value, attribute or place))


def of_problem(name: str, data_dir: Path | None) -> Target:
    """The network of a problem, made for its data."""
    problem = problems.get(name)
    dataset = data.load(problem.data, data_dir=data_dir, recipe=problem.recipe)
    return Target(name, problem.model(dataset.in_shape, dataset.outputs), dataset.in_shape)


def from_file(path: Path) -> ModuleType:
    """The file as a module whose name is not `__main__`; its neighbours can be imported."""
    name = f"doctor_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def from_path(dotted: str) -> ModuleType:
    """A module by its name, from the working directory too."""
    sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(dotted)


def imported(place: str, run: Callable[[], ModuleType]) -> ModuleType:
    """What `run` imports; whatever goes wrong in it is one sentence."""
    if place.endswith(".py") and not Path(place).is_file():
        raise LabError(f"There is no file {place}; give the path of a Python file.")
    before = list(sys.path)
    try:
        return run()
    except (Exception, SystemExit) as error:
        raise LabError(
            f"Importing {place} failed with {last_line(error)}; it must import without arguments."
        ) from error
    finally:
        sys.path[:] = before


def last_line(error: BaseException) -> str:
    """The kind of an error and the last line of what it says."""
    lines = str(error).strip().splitlines()
    return type(error).__name__ + (f": {lines[-1].strip().rstrip('.')}" if lines else "")


def attribute_of(module: ModuleType, dotted: str, place: str) -> Any:
    value: Any = module
    for name in dotted.split("."):
        if not hasattr(value, name):
            known = ", ".join(candidates(module)) or "none"
            raise LabError(f"{place} has no attribute {dotted!r}; its models and classes of models are: {known}.")
        value = getattr(value, name)
    return value


def candidates(module: ModuleType) -> dict[str, Any]:
    """Models at the top level of a module; without any, the classes of models that it defines."""
    values = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    models = {name: value for name, value in values.items() if isinstance(value, nn.Module)}
    return models or {name: value for name, value in values.items() if is_own_class(value, module)}


def is_own_class(value: Any, module: ModuleType) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == module.__name__


def only_model(module: ModuleType, place: str) -> Any:
    found = candidates(module)
    if len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise LabError(f"{place} has no nn.Module at its top level; name what makes one, {place}:function.")
    raise LabError(f"{place} has several models; name one of them: {', '.join(f'{place}:{name}' for name in found)}.")


def built(value: Any, name: str) -> nn.Module:
    """The module itself, or what a class or a function without arguments makes."""
    if isinstance(value, nn.Module):
        return value
    if not callable(value):
        raise LabError(f"{name} is a {type(value).__name__}; name an nn.Module, or what makes one.")
    if missing := required(value):
        raise LabError(f"{name} needs arguments ({', '.join(missing)}); name a function without any that calls it.")
    try:
        model = value()
    except Exception as error:
        raise LabError(f"{name}() failed with {last_line(error)}.") from error
    if not isinstance(model, nn.Module):
        raise LabError(f"{name}() returned a {type(model).__name__}; it must return an nn.Module.")
    return model


def required(function: Callable[..., Any]) -> list[str]:
    """Names of the arguments that have no default."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # built-in
        return []
    starred = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in starred]
