"""Classifiers without continuous time."""

from __future__ import annotations

from torch import nn

from ocnopt_lab.data import CropAndFlip, Recipe
from ocnopt_lab.problems.networks import Convolutional, Factory, FullyConnected
from ocnopt_lab.problems.problem import Problem
from ocnopt_lab.problems.residual import inception, residual, resnet18
from ocnopt_lab.tasks import MaxMahalanobis

_IMAGE_CNN = Convolutional(pools=(True, True, True), dense=64)
_CIFAR_CNN = Convolutional(pools=(False, True, False, True), dense=128)
_RESNET = residual(stem=8, widths=(16, 32, 64))
_INCEPTION = inception(stem=16, widths=(8, 16))
_SIGMOID = FullyConnected(32, layers=13, activation=nn.Sigmoid)
_AUGMENTED = CropAndFlip()
_CENTRES = Recipe(MaxMahalanobis())


def _blocks(name: str, description: str, data: str, network: Factory, epochs: int) -> Problem:
    return Problem(name, description, data, network, 128, epochs, augmentation=_AUGMENTED)


_RESIDUAL = "3 residual blocks with 1x1 shortcuts, batch norm"
_MODULES = "2 inception modules, 4 branches, batch norm"
_EIGHTEEN = "ResNet-18, 3x3 stem without pool"

CLASSIFIERS = (
    Problem("digits-fcn", "5 dense layers, tanh, width 32", "digits", FullyConnected(32), 32, 30),
    Problem("wine-fcn", "5 dense layers, tanh, width 10", "wine", FullyConnected(10), 8, 30),
    Problem("mnist-fcn", "5 dense layers, tanh, width 32", "mnist", FullyConnected(32), 32, 3),
    Problem("mnist-cnn", "3 convolutions, 2 dense layers, ReLU", "mnist", _IMAGE_CNN, 128, 3),
    Problem("fashion-mnist-fcn", "5 dense layers, tanh, width 32", "fashion_mnist", FullyConnected(32), 32, 3),
    Problem("fashion-mnist-cnn", "3 convolutions, 2 dense layers, ReLU", "fashion_mnist", _IMAGE_CNN, 128, 3),
    Problem("cifar10-cnn", "4 convolutions, 2 dense layers, ReLU", "cifar10", _CIFAR_CNN, 128, 3),
    Problem("resnet-small", _RESIDUAL, "fashion_mnist", _RESNET, 128, 3),
    Problem("inception-small", _MODULES, "fashion_mnist", _INCEPTION, 128, 3),
    _blocks("cifar10-resnet-small", _RESIDUAL, "cifar10", _RESNET, 10),
    _blocks("cifar10-inception-small", _MODULES, "cifar10", _INCEPTION, 10),
    _blocks("fashion-mnist-resnet18", _EIGHTEEN, "fashion_mnist", resnet18, 30),
    _blocks("cifar10-resnet18", _EIGHTEEN, "cifar10", resnet18, 30),
    Problem("sigmoid-deep", "13 dense layers, sigmoid, width 32", "digits", _SIGMOID, 32, 30, _CENTRES),
    Problem("sigmoid-deep-softmax", "13 dense layers, sigmoid, width 32", "digits", _SIGMOID, 32, 30),
)
