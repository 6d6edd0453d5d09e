"""Classifiers without continuous time."""

from __future__ import annotations

from ocnopt_lab.problems.networks import convolutional, fully_connected
from ocnopt_lab.problems.problem import Problem
from ocnopt_lab.problems.residual import inception, residual

_IMAGE_CNN = convolutional(pools=(True, True, True), dense=64)
_CIFAR_CNN = convolutional(pools=(False, True, False, True), dense=128)
_RESNET = residual(stem=8, widths=(16, 32, 64))
_INCEPTION = inception(stem=16, widths=(8, 16))

CLASSIFIERS = (
    Problem("digits-fcn", "5 dense layers, tanh, width 32", "digits", fully_connected(32), 32, 30),
    Problem("wine-fcn", "5 dense layers, tanh, width 10", "wine", fully_connected(10), 8, 30),
    Problem("mnist-fcn", "5 dense layers, tanh, width 32", "mnist", fully_connected(32), 32, 3),
    Problem("mnist-cnn", "3 convolutions, 2 dense layers, ReLU", "mnist", _IMAGE_CNN, 128, 3),
    Problem("fashion-mnist-fcn", "5 dense layers, tanh, width 32", "fashion_mnist", fully_connected(32), 32, 3),
    Problem("fashion-mnist-cnn", "3 convolutions, 2 dense layers, ReLU", "fashion_mnist", _IMAGE_CNN, 128, 3),
    Problem("cifar10-cnn", "4 convolutions, 2 dense layers, ReLU", "cifar10", _CIFAR_CNN, 128, 3),
    Problem("resnet-small", "3 residual blocks with 1x1 shortcuts, batch norm", "fashion_mnist", _RESNET, 128, 3),
    Problem("inception-small", "2 inception modules, 4 branches, batch norm", "fashion_mnist", _INCEPTION, 128, 3),
)
