"""From a checkpoint to a model that is ready to be asked."""

import importlib
from typing import cast

import torch
from torch import nn

from stretto.engine.checkpoint.headers import Checkpoint
from stretto.engine.checkpoint.weights import load_weights
from stretto.engine.models.model import Model


def build(checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> Model:
    """The checkpoint's model with its weights, for computing only; raises CheckpointError.

    It is laid out on the meta device first, so that no memory is filled twice.
    """
    family = importlib.import_module(checkpoint.family.module)  # a family without torch names its module
    with torch.device("meta"):
        model: nn.Module = family.build(checkpoint.config)
    load_weights(model, checkpoint, dtype=dtype, device=device)
    return cast(Model, model.eval().requires_grad_(False))  # every family's module is one
