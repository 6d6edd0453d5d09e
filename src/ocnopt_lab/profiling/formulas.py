"""Operations that torch's counter has no formula for, or a wrong one. A multiplication and an addition are two.

Those of LAPACK are the leading terms of Golub and Van Loan, Matrix Computations, 4th edition.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
Shape = Sequence[int]
_CONVOLUTION = flop_registry[aten.convolution_backward]


def convolution_backward(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
    """torch's, but for the weight's gradient of a grouped convolution: torch takes every input to meet every output."""
    transposed, groups, (wants_input, wants_weight, wants_bias) = args[7], args[9], args[10]
    grad, x = args[0], args[1]
    weight = _CONVOLUTION(*args[:10], [False, wants_weight, wants_bias], *args[11:], out_val=out_val, **kwargs)
    if not wants_input:
        return weight // groups
    flop = 2 * prod(args[2].shape) * prod((x if transposed else grad).shape[2:]) * grad.shape[0]
    return flop + weight // groups


convolution_backward._get_raw = True  # type: ignore[attr-defined]  # takes tensors, not shapes


def matrix_vector(A: Shape, x: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * prod(A)


def added_matrix_vector(y: Shape, A: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * prod(A)


def cholesky(A: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return prod(A) * A[-1] // 3


def inverse_of_cholesky(A: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * prod(A) * A[-1] // 3


def eigenbasis(A: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Values and vectors of a symmetric matrix."""
    return 9 * prod(A) * A[-1]


def solution(A: Shape, b: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """By an LU decomposition; a right-hand side may be a stack of vectors."""
    return 2 * prod(A) * A[-1] // 3 + 2 * prod(b) * A[-1]


def solution_of_cholesky(b: Shape, L: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * prod(b) * L[-1]


def solution_of_triangle(A: Shape, b: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return prod(b) * A[-1]


def attention(q: Shape, k: Shape, v: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Two products, of whole windows, as torch counts attention on other devices."""
    return 2 * prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def attention_backward(grad: Shape, q: Shape, k: Shape, v: Shape, *args: Any, out_shape: Any = None, **kw: Any) -> int:
    """Five products: that of the logits is made again."""
    return 2 * prod(q[:-1]) * k[-2] * (3 * q[-1] + 2 * v[-1])


FORMULAS = {
    aten.convolution_backward: convolution_backward,
    aten.mv: matrix_vector,
    aten.addmv: added_matrix_vector,
    aten.dot: matrix_vector,
    aten.vdot: matrix_vector,
    aten.linalg_vecdot: matrix_vector,
    aten.linalg_cholesky_ex: cholesky,
    aten.cholesky_inverse: inverse_of_cholesky,
    aten._linalg_eigh: eigenbasis,
    aten._linalg_solve_ex: solution,
    aten.cholesky_solve: solution_of_cholesky,
    aten.linalg_solve_triangular: solution_of_triangle,
    aten._scaled_dot_product_flash_attention_for_cpu: attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
}
"""For ``FlopCounterMode(custom_mapping=…)``."""
