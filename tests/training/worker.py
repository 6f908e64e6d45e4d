# SPDX-License-Identifier: Apache-2.0
"""A process of a run that tests start: alone, or one of several under torchrun."""

import argparse
import contextlib
import os
import signal

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch._dynamo.utils import counters

import prosparse as ps
from prosparse.kernels.backend import use_backend
from prosparse.training import run
from prosparse.training.trainer import ProSparseTrainer

parser = argparse.ArgumentParser()
parser.add_argument("recipe")
parser.add_argument("--resume", action="store_true")
parser.add_argument("--fused", action="store_true", help="use the fused operator, in plain PyTorch")
parser.add_argument(
    "--sharded", action="store_true", help="allow FSDP2 without a GPU, and expect it"
)
parser.add_argument("--compiled", action="store_true", help="expect compiled code")
parser.add_argument("--die-after", type=int, help="SIGKILL to the second process after this step")
options = parser.parse_args()

gathered = []
if options.sharded:
    init, whole_weights = AcceleratorState.__init__, run.whole_weights

    def as_on_gpus(self, *args, **kwargs) -> None:
        # accelerate shards on accelerators only, although nothing that it calls needs one.
        if PartialState._shared_state.get("distributed_type") == DistributedType.MULTI_CPU:
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        init(self, *args, **kwargs)

    def noted(model):
        gathered.append(model)
        return whole_weights(model)

    AcceleratorState.__init__ = as_on_gpus
    run.whole_weights = noted

if options.die_after is not None:
    fetch = ProSparseTrainer.get_batch_samples

    def fetch_or_die(self, *args, **kwargs):
        if self.state.global_step == options.die_after and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return fetch(self, *args, **kwargs)

    ProSparseTrainer.get_batch_samples = fetch_or_die

torch.set_num_threads(1)
with use_backend("reference") if options.fused else contextlib.nullcontext():
    ps.train(options.recipe, device="cpu", progress=False, resume=options.resume)
if options.sharded:
    assert gathered, "the run was not sharded"
if options.compiled:
    assert counters["stats"]["unique_graphs"] > 0, "nothing was compiled"
    assert not counters["graph_break"]
