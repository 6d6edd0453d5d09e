"""Peak memory of one variant, measured in a process of its own: `python -m ocnopt_lab.profiling.memory`."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from ocnopt_lab.errors import FAILED, LabError
from ocnopt_lab.profiling.phases import take
from ocnopt_lab.profiling.sizes import Size, trainer_of
from ocnopt_lab.runs.config import RunConfig
from ocnopt_lab.runs.memory import memory_on
from ocnopt_lab.runs.trainer import Trainer


@dataclass(frozen=True)
class Memory:
    """Peak memory over the training steps, and its growth over what there was before the first; MB.

    On a processor all that is resident, on a device of CUDA what its tensors hold.
    """

    peak: float
    growth: float


def measure(config: RunConfig, size: Size, steps: int) -> Memory:
    """Runs `steps` training steps of `config` at that size in a child process."""
    request = json.dumps({"config": config.to_dict(), "size": asdict(size), "steps": steps})
    command = [sys.executable, "-m", "ocnopt_lab.profiling.memory"]
    child = subprocess.run(command, input=request, stdout=subprocess.PIPE, text=True, check=False)
    if child.returncode:
        raise LabError(f"The memory measurement of {config.optimizer.label} failed.", FAILED)
    return Memory(**json.loads(child.stdout))


def _measure_here(config: RunConfig, size: Size, steps: int) -> Memory:
    trainer = trainer_of(config, size)
    _plain_pass(trainer)
    memory = memory_on(trainer.device)
    memory.resume()
    take(trainer.epoch(), steps)
    memory.pause()
    return Memory(memory.peak, memory.growth)


def _plain_pass(trainer: Trainer) -> None:
    """One forward and backward pass of a second model: what torch allocates at first use is no variant's cost."""
    data, size = trainer.data, trainer.config.batch_size
    model = trainer.problem.model(data.in_shape, data.outputs).to(trainer.device)
    trainer.task.loss(model(data.x_train[:size]), data.y_train[:size]).backward()


if __name__ == "__main__":
    request = json.load(sys.stdin)
    config = RunConfig.from_dict(request["config"], Path("standard input"))
    print(json.dumps(asdict(_measure_here(config, Size(**request["size"]), request["steps"]))))
