"""`ocnopt doctor`: targets, what is said of a model before any data, and what a trial adds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode

from ocnopt import OCNOpt
from ocnopt.core import turned
from ocnopt.curvature import EKFAC, KFAC, TABLE
from ocnopt.players import Refusal, find
from ocnopt.seats import TIED
from ocnopt_lab.cli import main
from ocnopt_lab.doctor import advice, targets, trial
from ocnopt_lab.doctor.examination import Layer, examine, total
from ocnopt_lab.errors import LabError

SCRIPT = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, width), nn.ReLU(inplace=True), nn.BatchNorm1d(width))
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.body(x))

def build():
    return Net(8)

class Holder:
    inner = Net(5)

number = 3
if __name__ == "__main__":
    raise RuntimeError("must not run")
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(SCRIPT)
    return path


# targets


@pytest.mark.parametrize(("attribute", "width"), [("Net", 4), ("build", 8), ("Holder.inner", 5)])
def test_classes_functions_and_instances(script: Path, attribute: str, width: int) -> None:
    model = targets.find(f"{script}:{attribute}").model
    assert model.head.in_features == width


def test_a_file_with_one_class_and_a_module_of_the_working_directory(script: Path) -> None:
    assert type(targets.find(str(script)).model).__name__ == "Net"
    script.rename("patient_of_the_doctor.py")  # a name that no other test imports
    assert type(targets.find("patient_of_the_doctor:Net").model).__name__ == "Net"


def test_one_instance_goes_before_its_class(script: Path) -> None:
    script.write_text(SCRIPT + "model = Net(7)\n")
    assert targets.find(str(script)).model.head.in_features == 7


def test_neighbours_of_a_file_are_found_and_the_path_is_left_alone(tmp_path: Path, script: Path) -> None:
    import sys

    folder = tmp_path / "deep"
    folder.mkdir()
    (folder / "neighbour_of_deep.py").write_text(SCRIPT)
    (folder / "entry.py").write_text("from neighbour_of_deep import build\nmodel = build()\n")
    before = list(sys.path)
    assert targets.find(str(folder / "entry.py")).model.head.in_features == 8
    assert sys.path == before


BAD = {
    "nowhere.py": "There is no file nowhere.py; give the path of a Python file.",
    "nothing": "'nothing' is no problem and no Python file; write file.py, file.py:attribute,",
    "nets.py:gone": "nets.py has no attribute 'gone'; its models and classes of models are: Net, Needy.",
    "nets.py:number": "number is a int; name an nn.Module, or what makes one.",
    "nets.py:Needy": "Needy needs arguments (width, depth); name a function without any that calls it.",
    "nets.py:wrong": "wrong() returned a int; it must return an nn.Module.",
    "nets.py:broken": "broken() failed with ValueError: second line.",
    "nets.py": "nets.py has several models; name one of them: nets.py:Net, nets.py:Needy.",
    "empty.py": "empty.py has no nn.Module at its top level; name what makes one, empty.py:function.",
    "raising.py": "Importing raising.py failed with KeyError: 'x'; it must import without arguments.",
    "exiting.py:model": "Importing exiting.py failed with SystemExit: 2; it must import without arguments.",
    "syntax.py": "Importing syntax.py failed with SyntaxError",
    "no.such.module:Net": "Importing no.such.module failed with ModuleNotFoundError: No module named 'no'; it must",
    "nets.py:flat": "Flatten has no trainable parameters: none has requires_grad=True.",
    "nets.py:lazy": "weight is lazy and has no shape yet; call the model once where it is made.",
}


@pytest.mark.parametrize("target", BAD)
def test_bad_targets_are_one_sentence(capsys, script: Path, target: str) -> None:
    more = "class Needy(Net):\n    def __init__(self, width, depth, *rest, last=1): pass\n"
    more += "def wrong(): return 3\ndef broken(): raise ValueError('first line\\nsecond line.')\n"
    more += "def flat(): return nn.Flatten()\ndef lazy(): return nn.LazyLinear(2)\n"
    script.write_text(SCRIPT + more)
    Path("empty.py").write_text("x = 1\n")
    Path("raising.py").write_text("{}['x']\n")
    Path("exiting.py").write_text("raise SystemExit(2)\n")
    Path("syntax.py").write_text("def f(:\n")
    assert main(["doctor", target]) == 2
    printed = capsys.readouterr().err
    assert BAD[target] in printed and printed.count("\n") == 1


# examination


class Everything(nn.Module):
    """One of each: a raw parameter, attention, tied weights, a parametrization, batch statistics, a GRU, a norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scale = nn.Parameter(torch.ones(8))
        self.words, self.read = nn.Embedding(12, 8), nn.Linear(8, 12, bias=False)
        self.read.weight = self.words.weight
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.gru, self.norm = nn.GRU(8, 8, batch_first=True), nn.LayerNorm(8)
        self.normed = parametrizations.weight_norm(nn.Linear(8, 8))
        self.batch, self.act = nn.BatchNorm1d(5), nn.ReLU(inplace=True)
        self.still = nn.Linear(8, 8).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.words(x) * self.scale
        h = self.norm(h + self.attention(h, h, h)[0])
        h = self.still(self.act(self.batch(self.normed(self.gru(h)[0]))))
        return self.read(h)


def by_path(layers: list[Layer]) -> dict[str, Layer]:
    return {layer.path: layer for layer in layers}


def test_layers_and_their_players() -> None:
    layers = by_path(examine(Everything(), "ekfac"))
    players = {path: layer.player for path, layer in layers.items() if layer.player != "none"}
    assert players == {"gru": "generic", "norm": "layernorm", "batch": "batchnorm", "still": "linear"}
    assert layers["still"].frozen == 72 and layers["still"].parameters == 0 and not layers["still"].feedback
    refused = {"(model)", "words", "attention", "attention.out_proj", "normed", "normed.parametrizations.weight"}
    assert {path for path, layer in layers.items() if layer.reason} == refused


def test_what_to_expect_is_said_with_what_to_do() -> None:
    model = Everything()
    told = advice.expectations(model, examine(model, "ekfac"), "ekfac")
    words = [
        "3 of 9 layers",
        "(model) has no player: Everything holds a raw parameter",
        "Move the parameter into a small module",
        "words has no player: Other modules share its weight",
        "its packed weights are trained open loop",
        "gru: served by automatic differentiation",
        "still: 72 parameters are frozen",
        "Batch statistics (batch)",
        "Operations in place (act)",
    ]
    text = "\n".join(told)
    assert [w for w in words if w not in text] == []
    assert not any("GRU has no player" in line for line in told)


def refusals() -> dict[str, str]:
    """Reasons of the table of players, each met by a module of its own."""
    linear, hooked = nn.Linear(4, 4), nn.Linear(4, 4)
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(hooked)
    met = {
        "parametrized": parametrizations.weight_norm(nn.Linear(4, 4)),
        "hooked": hooked,
        "attention": nn.MultiheadAttention(4, 2).out_proj,
        "sync": nn.SyncBatchNorm(4),
        "rnn": nn.GRU(4, 4),
        "max_norm": nn.Embedding(4, 4, max_norm=1.0),
        "scale": nn.Embedding(4, 4, scale_grad_by_freq=True),
        "sparse": nn.Embedding(4, 4, sparse=True),
    }
    parent = nn.Sequential(linear)
    parent.register_parameter("raw", nn.Parameter(torch.ones(1)))
    found = {name: find(module, ("weight",)) for name, module in {**met, "raw": parent}.items()}
    assert all(isinstance(x, Refusal) for x in found.values()), found
    return {name: x.reason for name, x in found.items() if isinstance(x, Refusal)} | {"tied": TIED.format("weight")}


def test_every_refusal_has_a_remedy() -> None:
    used = set()
    for name, reason in refusals().items():
        told = advice.remedy(Layer("a", "B", "none", "diagonal", reason, 1, 0, 0, 0.0))
        assert told.endswith("."), name
        used.add(next(words for words in advice.REMEDIES if words in reason))
    assert used == set(advice.REMEDIES)


class Small(nn.Module):
    """Linear layers of unequal width, a convolution in groups, a norm and a raw parameter of its own module."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv1d(2, 6, 3, groups=2), nn.GroupNorm(2, 6)
        self.wide, self.head = nn.Linear(24, 9), nn.Linear(9, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.wide(self.norm(self.conv(x)).flatten(1)).tanh())


SEVERAL = {**{name: make() for name, make in TABLE.items()}, "cut": EKFAC(max_factor=10), "whole": EKFAC(whole=10)}


@pytest.mark.parametrize("name", SEVERAL)
def test_memory_is_what_training_keeps(name: str) -> None:
    model = Small()
    expected = total(examine(model, SEVERAL[name]), "state")
    optimizer = OCNOpt(model, curvature=SEVERAL[name])
    for _ in range(6):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(8, 2, 6)), torch.randint(3, (8,))).backward()
        optimizer.step()
    tensors = [x for state in optimizer.state.values() for x in state.values() if isinstance(x, torch.Tensor)]
    assert expected == sum(x.numel() * x.element_size() for x in tensors)


@pytest.mark.parametrize(
    "curvature", [KFAC(decompose_every=10**9), EKFAC(decompose_every=10**9)], ids=["kfac", "ekfac"]
)
def test_the_work_of_a_metric_is_that_of_its_products(curvature: KFAC, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first layer of a step has nothing to react to and solves once, so a narrow one stands there."""
    monkeypatch.setattr(turned, "WORTH", 0.0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 200), nn.Tanh(), nn.Linear(200, 120), nn.Tanh(), nn.Linear(120, 5))
    layers = examine(model, curvature)
    optimizer = OCNOpt(model, curvature=curvature, feedback_samples=1)
    for _ in range(8):  # no statistics and no decompositions in the eighth step
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(8, 3)), torch.randint(5, (8,))).backward()
        with FlopCounterMode(display=False) as counter:
            optimizer.step()
    sizes = ((4, 200), (201, 120), (121, 5))
    predicted = sum(6 * n * m * layer.rows for layer, (n, m) in zip(layers, sizes, strict=True))
    assert counter.get_total_flops() == pytest.approx(predicted, rel=0.12)


def test_nothing_is_left_on_the_model() -> None:
    model = Small()
    before = {name: p.clone() for name, p in model.named_parameters()}
    examine(model, "ekfac")
    assert all(torch.equal(p, before[name]) and p.device.type == "cpu" for name, p in model.named_parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


# the command


def test_it_prints_a_table_and_expectations(capsys, script: Path) -> None:
    assert main(["doctor", f"{script}:Net"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert re.search(r"body\.0 linear eigen yes 28 0\.0 MB low, \d+ rows", printed)
    assert "3 of 3 layers, with 100% of the parameters" in printed
    assert "random input" not in printed


def test_a_problem_is_examined_by_its_name(capsys) -> None:
    assert main(["doctor", "wine-fcn", "--curvature", "adam"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "wine-fcn with curvature=adam" in printed and "curvature='adam' keeps diagonals alone" in printed


def test_a_trial_tells_who_takes_part_and_where_the_time_goes(capsys, script: Path) -> None:
    assert main(["doctor", f"{script}:Net", "--input-shape", "16,6"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "4 steps on random input of shape (16, 6)" in printed
    assert "6 of 6 parameters took part in the feedback, under a cross-entropy." in printed
    shares = [int(x) for x in re.findall(r"(\d+)%", printed.split("the step", 1)[1])]
    assert len(shares) == 8 and 97 <= sum(shares) <= 103


def test_a_trial_on_tokens_finds_what_was_not_foreseen(capsys) -> None:
    Path("tokens.py").write_text(
        "from torch import nn\nimport torch\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.words, self.places, self.read = nn.Embedding(9, 6), nn.Embedding(5, 6), nn.Linear(6, 9)\n"
        "    def forward(self, x):\n"
        "        return {'logits': self.read(self.words(x) + self.places(torch.arange(5)))}\n"
    )
    assert main(["doctor", "tokens.py", "--input-shape", "4,5", "--input-dtype", "int64"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "places.weight was expected to and did not: Its batch of 5 is not the model's batch of 4." in printed
    assert "under a squared error" in printed


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ("16", "A step on random input of shape (16,) and dtype torch.float32 failed with RuntimeError"),
        ("16,six", "--input-shape 16,six is no shape; write the batch and the rest, as in 32,784."),
        ("0,6", "--input-shape 0,6 is no shape"),
    ],
)
def test_inputs_that_do_not_fit_are_one_sentence(capsys, script: Path, shape: str, sentence: str) -> None:
    assert main(["doctor", f"{script}:Net", "--input-shape", shape]) == 2
    printed = capsys.readouterr().err
    assert sentence in printed and printed.count("\n") == 1


@pytest.mark.filterwarnings("ignore:OCNOpt skipped")
def test_a_trial_without_a_finite_step_says_so() -> None:
    class Infinite(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * torch.inf

    with pytest.raises(LabError, match="had a finite loss and gradients"):
        trial.attempt(Infinite(3, 2), (4, 3), None, "adam")
