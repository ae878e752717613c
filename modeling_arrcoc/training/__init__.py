"""Training of a host with ARR-COC. TRL's trainer is in `arrcoc.training.sft`, because TRL is optional."""

from .arguments import ArrCocTrainingArguments
from .checkpoints import CheckpointError, CheckpointMixin
from .objectives import ForwardRecord
from .phases import PHASES, Gate, Phase, apply_phase
from .rebalancing import MixtureRule
from .rescoring import DifficultyRule
from .runs import run_phases
from .schedules import Schedule, parse_schedule
from .trainer import ArrCocTrainer, ArrCocTrainerMixin
from .updates import request_rollback


__all__ = [
    "PHASES",
    "ArrCocTrainer",
    "ArrCocTrainerMixin",
    "ArrCocTrainingArguments",
    "CheckpointError",
    "CheckpointMixin",
    "DifficultyRule",
    "ForwardRecord",
    "Gate",
    "MixtureRule",
    "Phase",
    "Schedule",
    "apply_phase",
    "parse_schedule",
    "request_rollback",
    "run_phases",
]
