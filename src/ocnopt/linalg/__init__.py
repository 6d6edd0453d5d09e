"""Small dense linear algebra: symmetric factorisations that do not fail, low-rank cores, Kronecker products."""
