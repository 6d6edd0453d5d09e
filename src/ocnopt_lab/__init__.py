"""Experiments with ocnopt: data sets, problems, a training loop with run folders, a profiler and the command line."""
