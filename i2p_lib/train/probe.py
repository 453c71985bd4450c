"""Looking inside a network: pooled features of its stages, and how far its classes collapse."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from i2p_lib.analysis.collapse import collapse_report
from i2p_lib.sparse import SparseTensor
from i2p_lib.train import team as distributed
from i2p_lib.train.loop import Split, State, evaluate

PENULTIMATE = "penultimate"


def stage_names(net: nn.Module, most: int = 4) -> list[str]:
    """Return up to `most` stages, evenly chosen from first to last.

    Stages are `layer1` .. `layer4` of a ResNet, or the children of a `blocks` container; a network
    with neither has none.
    """
    children = dict(net.named_children())
    names = [name for name in children if name.startswith("layer") and name[5:].isdigit()]
    if not names and "blocks" in children:
        names = [f"blocks.{name}" for name, _ in children["blocks"].named_children()]
    if len(names) <= most:
        return names
    return [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)]


def pooled(out: SparseTensor | Tensor) -> Tensor:
    """Average the features of each cloud of a batch: [B, C].

    The tokens [B, T, C] of a network on points are averaged too; a dense [B, C] passes through.
    Raises ValueError for another shape.
    """
    if isinstance(out, SparseTensor):
        return out.replace(out.feats.float()).global_mean()
    if out.ndim not in (2, 3):
        raise ValueError(f"a stage must give [B, C] or [B, tokens, C], got {list(out.shape)}")
    return out.float().mean(1) if out.ndim == 3 else out


def classifier_weight(net: nn.Module) -> Tensor:
    """Return the weight [classes, C] of the classifier, a norm behind it folded in."""
    head = net.get_submodule(net.i2p_classifier)
    if isinstance(head, nn.Linear):
        return head.weight.detach().cpu()
    linear, norm = head
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return (linear.weight * scale[:, None]).detach().cpu()


@contextmanager
def taps(net: nn.Module, stages: list[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Record pooled stage outputs and penultimate features of every forward pass in the block.

    The penultimate features are the input of the classifier of a network made by `inflate`.
    """
    seen: dict[str, list[Tensor]] = {name: [] for name in [*stages, PENULTIMATE]}

    def keep_output(name: str):
        return lambda module, args, out: seen[name].append(pooled(out).detach().float().cpu())

    def keep_input(module: nn.Module, args: tuple) -> None:
        seen[PENULTIMATE].append(pooled(args[0]).detach().float().cpu())

    handles = [net.get_submodule(n).register_forward_hook(keep_output(n)) for n in stages]
    classifier = net.get_submodule(net.i2p_classifier)
    handles.append(classifier.register_forward_pre_hook(keep_input))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def features(state: State, split: Split, stages: list[str]) -> tuple[dict[str, Tensor], Tensor]:
    """Return ({layer: [N, C]}, logits [N, classes]) of a split in eval mode, in one pass."""
    with taps(state.net, stages) as seen:
        scores = evaluate(state.net, split, state.spec, state.device)
    layers = {name: distributed.gather(parts) for name, parts in seen.items()}
    return layers, scores.logits


class ProbeHook:
    """At the spec's probe epochs, measure the collapse of every stage on train and test.

    Classes with a single cloud have no variance and are left out; a split without two larger
    classes (one shot) gives no rows.
    """

    def __call__(self, state: State) -> None:
        if state.epoch not in state.spec.probe_epochs:
            return
        stages = stage_names(state.net)
        for name in ("train", "test"):
            split = getattr(state.splits, name)
            layers, logits = features(state, split, stages)
            if state.epoch == state.spec.epochs:
                state.last_features[name] = layers[PENULTIMATE], logits
            counts = torch.bincount(split.labels)
            kept = counts[split.labels] > 1
            if int((counts > 1).sum()) < 2:
                continue
            for layer, values in layers.items():
                extra = {}
                if layer == PENULTIMATE:
                    extra = {"weight": classifier_weight(state.net), "logits": logits[kept]}
                report = collapse_report(values[kept], split.labels[kept], **extra)
                where = {"epoch": state.epoch, "split": name, "layer": layer}
                state.probes += [where | {"metric": m, "value": v} for m, v in report.items()]


def final_features(state: State) -> dict[str, Tensor]:
    """Return what a finished run keeps of train and test: features, logits and labels."""
    kept = {}
    for name in ("train", "test"):
        split = getattr(state.splits, name)
        if split is None:
            continue
        if name not in state.last_features:  # the last epoch was not probed
            layers, logits = features(state, split, [])
            state.last_features[name] = layers[PENULTIMATE], logits
        values, logits = state.last_features[name]
        kept[f"{name}_features"] = values
        kept[f"{name}_logits"] = logits
        kept[f"{name}_labels"] = split.labels.clone()
    return kept
