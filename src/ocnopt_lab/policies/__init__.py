"""The feedback policies of a training step as linear operators: what each layer reacts to, and how strongly."""

from ocnopt_lab.policies.feedback import Feedback
from ocnopt_lab.policies.recording import Recorded, record
from ocnopt_lab.policies.singular import Leading, leading

__all__ = ["Feedback", "Leading", "Recorded", "leading", "record"]
