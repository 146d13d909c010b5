"""Train the model: one process per rank, each started with torchrun's environment.

The same seed, steps and number of ranks make the same weights, bit for bit on one machine, however
often it was stopped and resumed: a batch depends on seed, step and rank alone, each rank computes
with one thread, and gradients are added up by one collective.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from model import Llama, Shape
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, distributed
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

try:
    from madang import job
except ImportError:  # the file alone, as Madang lays it beside a job
    import job

BATCH = 16
"""Windows of the text that one rank learns from at once."""
RATE, RATE_LEAST, WARM_UP = 3e-3, 0.1, 20
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class State:
    """All that a step changes."""

    model: Llama
    optimizer: torch.optim.AdamW
    sums: Tensor
    """The gradients of all parameters in a row, then the loss, then the wish to stop."""


def fresh(tokens: int, seed: int) -> State:
    """Return a model that knows nothing, the same on every rank."""
    torch.manual_seed(seed)
    model = Llama(Shape(tokens))
    sums, at = torch.zeros(sum(p.numel() for p in model.parameters()) + 2), 0
    for parameter in model.parameters():
        parameter.grad = sums[at : at + parameter.numel()].view_as(parameter)
        at += parameter.numel()
    optimizer = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, 0.99), foreach=False)
    return State(model, optimizer, sums)


def save(state: State, folder: Path) -> None:
    """Write weights and moments; what a resumed run needs, and no pickle."""
    save_file(state.model.state_dict(), folder / "model.safetensors")
    moments = {}
    for name, parameter in state.model.named_parameters():
        kept = state.optimizer.state[parameter]
        moments.update({f"{name}/{moment}": kept[moment] for moment in MOMENTS})
        moments[f"{name}/step"] = kept["step"].reshape(1)
    save_file(moments, folder / "optimizer.safetensors")


def restore(state: State, folder: Path) -> None:
    """Take up what `save` has written."""
    state.model.load_state_dict(load_file(folder / "model.safetensors"))
    moments = load_file(folder / "optimizer.safetensors")
    for name, parameter in state.model.named_parameters():
        kept = {moment: moments[f"{name}/{moment}"] for moment in MOMENTS}
        state.optimizer.state[parameter] = {**kept, "step": moments[f"{name}/step"].reshape(())}


def rate(step: int, total: int) -> float:
    """Return the learning rate: up for 20 steps, then down along a cosine to a tenth."""
    if step <= WARM_UP:
        return RATE * step / WARM_UP
    done = (step - WARM_UP) / max(1, total - WARM_UP)
    return RATE * (RATE_LEAST + (1 - RATE_LEAST) * (1 + math.cos(math.pi * done)) / 2)


def batch(tokens: np.ndarray, window: int, draw: np.random.Generator) -> Tensor:
    """Return windows of the text, each with the token that follows it."""
    starts = draw.integers(0, len(tokens) - window, size=BATCH)
    return torch.from_numpy(tokens[starts[:, None] + np.arange(window + 1)].astype(np.int64))


def learn(state: State, ids: Tensor, run: job.Run, step: int) -> tuple[float, bool]:
    """Do one step together with the other ranks; return the loss, and whether all are to stop."""

    def add(mine: float) -> float:
        state.sums[-1] = mine
        distributed.all_reduce(state.sums)
        return float(state.sums[-1])

    state.sums.zero_()
    logits = state.model(ids[:, :-1])
    loss = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    state.sums[-2] = loss.detach()
    stop = run.agree(run.should_stop(), add)
    state.sums /= run.ranks
    clip_grad_norm_(state.model.parameters(), 1.0, foreach=False)
    for group in state.optimizer.param_groups:
        group["lr"] = rate(step, run.total)
    state.optimizer.step()
    return float(state.sums[-2]), stop


def agree_on_start(run: job.Run) -> None:
    """End where ranks would go on from different steps: their weights would not be one model's."""
    ends = torch.tensor([run.resumed_step, -run.resumed_step])
    distributed.all_reduce(ends, distributed.ReduceOp.MAX)
    if ends[0] != -ends[1]:
        sys.exit("the ranks do not see the same checkpoints")


def hand_on(checkpoint: Path, folder: Path) -> None:
    """Copy a checkpoint to where others find it, whole or not at all."""
    new, place = folder / f".{checkpoint.name}", folder / checkpoint.name
    for old in (new, place):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(checkpoint, new)
    new.rename(place)


def main() -> None:
    """Train to the last step, or until asked to stop."""
    reader = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    reader.add_argument("--data", type=Path, required=True, help="what prepare.py has written")
    reader.add_argument("--steps", type=int, default=400)
    reader.add_argument("--save-every", type=int, default=50, help="steps between checkpoints")
    reader.add_argument("--window", type=int, default=128, help="tokens that are seen together")
    reader.add_argument("--seed", type=int, default=7)
    reader.add_argument("--out", type=Path, help="where the last checkpoint is copied to")
    asked = reader.parse_args()
    torch.set_num_threads(1)
    run = job.start(asked.steps, save_every_steps=asked.save_every)
    distributed.init_process_group("gloo")
    tokens = np.load(asked.data / "tokens.npy", allow_pickle=False)
    tokenizer = Tokenizer.from_file(str(asked.data / "tokenizer.json"))
    state = fresh(tokenizer.get_vocab_size(), asked.seed)
    if run.resume_from:
        restore(state, run.resume_from)
    agree_on_start(run)
    for step in run.steps():
        draw = np.random.default_rng([asked.seed, step, run.rank])
        ids = batch(tokens, asked.window, draw)
        loss, stop = learn(state, ids, run, step)
        run.step(step, loss=loss)
        if run.should_save(step) or (stop and run.rank == 0):
            with run.checkpoint(step) as folder:
                save(state, folder)
        if stop and step < run.total:
            distributed.barrier()
            distributed.destroy_process_group()
            run.leave()
    distributed.barrier()
    distributed.destroy_process_group()
    run.done()
    last = run.checkpoints / f"step-{run.total:06d}"
    if run.rank == 0 and run.resumed_step < run.total and run.saved != last.name:
        sys.exit("the last step is done, and there was no room to keep it")
    if run.rank == 0 and asked.out:
        hand_on(last, asked.out)


if __name__ == "__main__":
    main()
