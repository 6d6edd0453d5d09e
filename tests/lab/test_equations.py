"""The solutions that equations are measured against, each checked in a second way; and what the script does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from ocnopt.pde import Jet
from ocnopt_lab.equations import EQUATIONS, Equation
from ocnopt_lab.equations.equation import inside, values
from ocnopt_lab.equations.methods import fit_of, methods, train
from ocnopt_lab.equations.parabolic import NODES, VISCOSITY, shock
from ocnopt_lab.equations.pictures import draw
from ocnopt_lab.timed import Mark
from ocnopt_lab.timed.curves import draw_curves

each = pytest.mark.parametrize("name", EQUATIONS)


def jet_of(equation: Equation, x: Tensor) -> Jet:
    """The solution's own jet, by automatic differentiation."""
    u, parts = equation.solution, ([], [])
    for vector in equation.directions.vectors:
        v = torch.tensor(vector, dtype=torch.float64).expand_as(x)

        def slope(x: Tensor, v: Tensor = v) -> Tensor:
            return torch.func.jvp(u, (x,), (v,))[1]

        first, second = torch.func.jvp(slope, (x,), (v,))
        parts[0].append(first)
        parts[1].append(second)
    return Jet(u(x), torch.stack(parts[0], 1), torch.stack(parts[1][: equation.directions.twice], 1))


@each
def test_the_solution_meets_all_conditions(name: str) -> None:
    """On other points than those of the quadrature's singular start, t = 0."""
    equation = EQUATIONS[name]
    for condition in equation.conditions(equation.size, 3):
        x = condition.points
        x = x[x[:, -1] != 0] if name == "burgers" else x
        if len(x):
            found = condition.residual(x, jet_of(equation, x))
            torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-8)


def test_burgers_begins_as_it_should() -> None:
    x = torch.linspace(-1, 1, 21, dtype=torch.float64)
    points = torch.stack([x, torch.zeros_like(x)], 1)
    torch.testing.assert_close(shock(points)[:, 0], -torch.sin(torch.pi * x), rtol=0, atol=1e-14)


def test_burgers_equals_a_spectral_solution() -> None:
    """Fourier modes in x (the solution is periodic), an implicit Runge-Kutta rule in t."""
    n = 128
    x = -1 + 2 * np.arange(n) / n
    modes = 1j * np.pi * np.fft.fftfreq(n, 1 / n)

    def rate(t: float, u: np.ndarray) -> np.ndarray:
        square = np.fft.fft(0.5 * u * u)
        return np.fft.ifft(VISCOSITY * modes**2 * np.fft.fft(u) - modes * square).real

    times = [0.2, 0.5, 1.0]
    found = solve_ivp(rate, (0, 1), -np.sin(np.pi * x), "DOP853", times, rtol=1e-10, atol=1e-12).y
    for t, u in zip(times, found.T, strict=True):
        points = torch.tensor(np.stack([x, np.full(n, t)], 1))
        torch.testing.assert_close(shock(points)[:, 0], torch.tensor(u), rtol=0, atol=1e-7)
        torch.testing.assert_close(shock(points, 2 * NODES), shock(points), rtol=0, atol=1e-10)


@each
def test_points_lie_in_the_box_and_belong_to_the_seed(name: str) -> None:
    equation = EQUATIONS[name]
    low, high = torch.tensor(equation.box, dtype=torch.float64).T
    first, again, other = (equation.model(seed).samples[0] for seed in (0, 0, 1))
    assert bool(((first >= low) & (first <= high)).all())
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len(inside(equation.box, 7, 0)) == 7


@each
def test_boundary_points_lie_on_the_boundary(name: str) -> None:
    equation = EQUATIONS[name]
    low, high = torch.tensor(equation.box, dtype=torch.float64).T
    for condition in equation.conditions(equation.size, 0)[1:]:
        assert bool(((condition.points == low) | (condition.points == high)).any(1).all())


@each
def test_every_face_is_covered(name: str) -> None:
    """No gap on a face is wider than a fifth of it."""
    equation = EQUATIONS[name]
    conditions = equation.conditions(equation.size, 0)
    x = torch.cat([c.points for c in conditions[1:]])
    if len(equation.box) == 1:
        assert x.flatten().tolist() == [-1.0, 1.0]
        return
    for axis, (low, high) in enumerate(equation.box):
        across, (start, end) = x[:, 1 - axis], equation.box[1 - axis]
        bounds = (low,) if equation.names[axis] == "t" else (low, high)
        for bound in bounds:
            marks = torch.cat([across[x[:, axis] == bound], torch.tensor([start, end]).double()]).sort().values
            assert marks.diff().max() < 0.2 * (end - start)


METHODS = methods((1e-2,))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains(method: str) -> None:
    equation = EQUATIONS["poisson-1d"]
    model = equation.model(0)
    before = fit_of(model).forward()[0].item()
    marks = train(model, METHODS[method], equation.error, seconds=0.5)
    assert marks[-1].loss < before
    assert [m.seconds for m in marks] == sorted(m.seconds for m in marks)
    assert marks[-1].error == equation.error(model)


@pytest.mark.parametrize("name", ["poisson-1d", "heat"])
def test_pictures(name: str, tmp_path: Path) -> None:
    equation = EQUATIONS[name]
    model, points = equation.model(0), equation.grid()
    draw(tmp_path / "u.png", equation, equation.solution(points), {"zero": values(model, points)})
    draw_curves(tmp_path / "e.png", "x", {"ocnopt": [Mark(1.0, 1, 1.0, 0.1), Mark(2.0, 2, 1.0, 0.0)]}, "error")
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("u.png", "e.png"))
