"""Peak memory of one variant, measured in a process of its own: `python -m ocnopt_lab.profiling.memory`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import deque
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from ocnopt_lab.errors import FAILED, LabError
from ocnopt_lab.runs.config import RunConfig
from ocnopt_lab.runs.memory import StepMemory
from ocnopt_lab.runs.session import build_trainer
from ocnopt_lab.runs.trainer import Trainer


@dataclass(frozen=True)
class Memory:
    """Peak resident memory over the training steps, and its growth over what was resident before the first; MB."""

    peak: float
    growth: float


def measure(config: RunConfig, steps: int) -> Memory:
    """Runs `steps` training steps of `config` in a child process."""
    request = json.dumps({"config": config.to_dict(), "steps": steps})
    command = [sys.executable, "-m", "ocnopt_lab.profiling.memory"]
    child = subprocess.run(command, input=request, stdout=subprocess.PIPE, text=True, check=False)
    if child.returncode:
        raise LabError(f"The memory measurement of {config.optimizer.label} failed.", FAILED)
    return Memory(**json.loads(child.stdout))


def _measure_here(config: RunConfig, steps: int) -> Memory:
    trainer = build_trainer(config)
    _plain_pass(trainer)
    memory = StepMemory()
    memory.resume()
    deque(islice(trainer.epoch(), steps), maxlen=0)
    memory.pause()
    return Memory(memory.peak, memory.growth)


def _plain_pass(trainer: Trainer) -> None:
    """One forward and backward pass of a second model: what torch allocates at first use is no variant's cost."""
    data, size = trainer.data, trainer.config.batch_size
    model = trainer.problem.model(data.in_shape, data.outputs)
    trainer.task.loss(model(data.x_train[:size]), data.y_train[:size]).backward()


if __name__ == "__main__":
    request = json.load(sys.stdin)
    config = RunConfig.from_dict(request["config"], Path("standard input"))
    print(json.dumps(asdict(_measure_here(config, request["steps"]))))
