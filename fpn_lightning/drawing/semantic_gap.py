"""Measure the semantic gap of FPN §1 and §5.1.1: how well single cells of each map predict the objects' categories.

A linear classifier predicts the supercategory of an object from one cell of a map: the cell at the centre of the
object's box. Each map of the backbone (c2..c5) and of the pyramid (p2..p5) has its own classifier. Each classifier is
fitted to objects of the training split and evaluated on objects of the validation split. All classifiers use the same
objects. Cells in the background are not used.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import cross_entropy

from fpn_lightning.data.coco.index import COCOIndex, split_paths
from fpn_lightning.data.datamodule import COCODataModule
from fpn_lightning.errors import InputError, complain
from fpn_lightning.files import whole_file, write_whole
from fpn_lightning.models.detector import Detector
from fpn_lightning.stages.base import BaseStage
from fpn_lightning.weights.init_from import load_weights

LEVELS = (2, 3, 4, 5)
NAMES = [f"{kind}{level}" for kind in "pc" for level in LEVELS]
L2 = 0.1  # factor of the L2 penalty (half the sum of squared weights); 0.01 to 1 give similar accuracies
RESAMPLED = 1000  # number of bootstrap samples of the validation images, for the 95 % intervals
NOTE = (
    "A linear classifier predicts the supercategory of an object from one cell of a map: the cell at the centre of the "
    "object's box. The table shows the classifier's accuracy in %, averaged over the supercategories, and in brackets "
    "the 95 % interval of this accuracy, from bootstrap samples of the validation images."
)


class Cells(NamedTuple):
    """The feature-map cells at the centres of M objects.

    Attributes:
        maps: for each feature map, one vector per object, from the cell at the centre of the object's box;
            float64 ``(M, C)``.
        labels: label of each object, int64 ``(M,)``.
        images: index of each object's image, from 0, int64 ``(M,)``.
    """

    maps: dict[str, Tensor]
    labels: Tensor
    images: Tensor


def load_run(run: Path) -> tuple[Detector, COCODataModule, COCODataModule]:
    """Load a run's detector, and its training and validation images without augmentation; may raise InputError."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(BaseStage, "model")
    try:
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        given = config["data"]
        index = COCOIndex.open(split_paths(given["root"], given["val_split"])[0], "supercategory")
        given |= {"labels": "supercategory", "num_classes": len(index.categories), "proposals": None}
        val = COCODataModule(**given)
        train = COCODataModule(
            **given | {"val_split": given["train_split"], "max_val_images": given["max_train_images"]}
        )
        options = parser.parse_object({"model": config["model"]})
    except (OSError, yaml.YAMLError, KeyError, TypeError, ArgumentError) as error:
        raise InputError(f"{run / 'config.yaml'}: this file is not the configuration of a run ({error})") from error
    with warnings.catch_warnings():
        # instantiate_classes is deprecated, but its replacement `instantiate` is missing in jsonargparse 4.45 to 4.48.
        warnings.simplefilter("ignore")
        detector = parser.instantiate_classes(options).model.detector
    load_weights(detector, str(run / "checkpoints" / "last.ckpt"), ("backbone.", "pyramid."))
    if absent := [name for name in NAMES if name not in detector.backbone.strides | detector.pyramid.strides]:
        raise InputError(
            f"the model of {run} has no map {', '.join(absent)}; choose runs whose models have the maps c2 to c5 and "
            "p2 to p5, for example runs of table1/c_fpn"
        )
    return detector.eval(), train, val


@torch.no_grad()
def gather(detector: Detector, data: COCODataModule, device: str) -> Cells:
    """Compute the maps of all images and return the cells at the centres of the objects' boxes."""
    strides = detector.backbone.strides | detector.pyramid.strides
    maps: dict[str, list[Tensor]] = {name: [] for name in NAMES}
    labels, images = [], []
    for batch in data.val_dataloader():
        features = detector.to(device).backbone(batch.images.to(device))
        features |= detector.pyramid(features)
        for n, targets in enumerate(batch.targets):
            for name in NAMES:
                x, y = ((targets.boxes[:, :2] + targets.boxes[:, 2:]) / 2 / strides[name]).long().T.to(device)
                maps[name].append(features[name][n, :, y, x].T.cpu().double())  # (C, G) -> (G, C)
            labels.append(targets.labels)
            images.append(batch.images.image_ids[n].expand(len(targets.labels)))
    joined = {name: torch.cat(cells) for name, cells in maps.items()}
    return Cells(joined, torch.cat(labels), torch.cat(images).unique(return_inverse=True)[1])


def fit(cells: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Fit a linear softmax classifier. Each class has the same total weight in the loss.

    Returns:
        float64 ``(C + 1, K)``: the weights, and the bias in the last row.
    """
    weights = torch.zeros(cells.shape[1] + 1, num_classes, dtype=torch.float64, requires_grad=True)
    balance = labels.bincount(minlength=num_classes).clamp(min=1).double().reciprocal()
    optimizer = torch.optim.LBFGS([weights], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Tensor:  # the loss is convex, so the result does not depend on the initial weights
        optimizer.zero_grad()
        total = cross_entropy(cells @ weights[:-1] + weights[-1], labels, balance)
        total += L2 / 2 * weights[:-1].square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    return weights.detach()


def balanced_accuracy(right: Tensor, cells: Cells, num_classes: int) -> tuple[float, ...]:
    """Return the accuracy, averaged over the classes with objects, and the ends of its 95 % bootstrap interval.

    Args:
        right: bool ``(M,)``: whether the classifier's prediction is correct for each object.
        cells: the M objects; only their images and labels are used.
        num_classes: number K of classes.
    """
    num_images = int(cells.images.max()) + 1
    place, size = cells.images * num_classes + cells.labels, num_images * num_classes
    counts = torch.stack([place.bincount(right.double(), size), place.bincount(minlength=size)]).double()
    drawn = torch.randint(num_images, (RESAMPLED, num_images), generator=torch.Generator().manual_seed(0))
    times = torch.stack([torch.ones(num_images), *(row.bincount(minlength=num_images) for row in drawn)]).double()
    correct, total = times @ counts.view(2, num_images, num_classes)  # (B, I) @ (2, I, K) -> (2, B, K)
    values = (correct / total).nanmean(dim=1)
    return values[0].item(), *values[1:].quantile(values.new_tensor([0.025, 0.975])).tolist()


def probe(train: Cells, val: Cells, num_classes: int) -> dict[str, tuple[float, ...]]:
    """Fit a classifier to each map of ``train``; return the results of :func:`balanced_accuracy` on ``val``, by map."""
    results = {}
    for name, cells in train.maps.items():
        mean, std = cells.mean(dim=0), cells.std(dim=0).clamp(min=1e-6)
        weights = fit((cells - mean) / std, train.labels, num_classes)
        logits = (val.maps[name] - mean) / std @ weights[:-1] + weights[-1]
        results[name] = balanced_accuracy(logits.argmax(dim=1) == val.labels, val, num_classes)
    return results


def write(results: dict[str, dict[str, tuple[float, ...]]], output: Path) -> None:
    """Write the figure to ``output`` (PNG) and the accuracies to a Markdown file in the same folder."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    lines = [f"| maps | {' | '.join(f'level {k}' for k in LEVELS)} |", "|---" * (len(LEVELS) + 1) + "|"]
    for number, (run, values) in enumerate(results.items()):
        for kind, style in (("p", "o-"), ("c", "s--")):
            mean, low, high = 100 * torch.tensor([values[f"{kind}{k}"] for k in LEVELS]).T
            title, spread = f"{run}: {kind}2 to {kind}5", torch.stack((mean - low, high - mean)).clamp(min=0)
            axes.errorbar(LEVELS, mean.numpy(), spread.numpy(), fmt=style, color=f"C{number}", label=title, capsize=3)
            cells = [f"{m:.1f} ({a:.1f}–{b:.1f})" for m, a, b in zip(mean, low, high, strict=True)]
            lines.append(f"| {title} | {' | '.join(cells)} |")
    axes.set(xticks=LEVELS, xlabel="level k (fine to coarse)", ylabel="accuracy, mean over classes (%)")
    axes.legend()
    with whole_file(output) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
    page = ["# The semantic gap", "", NOTE, "", *lines, "", f"![Accuracy by level]({output.name})", ""]
    write_whole(output.with_suffix(".md"), "\n".join(page))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status: 0, or 2 if a run cannot be used."""
    parser = argparse.ArgumentParser("python -m fpn_lightning.drawing.semantic_gap", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a finished run: …/<row>/seed<n>")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("reports/small/semantic_gap.png"), help="figure (default: %(default)s)"
    )
    given = parser.parse_args(arguments)
    results = {}
    runs = [run.resolve() for run in given.runs]
    folder = os.path.commonpath([run.parent.parent for run in runs])
    try:
        for run in runs:
            detector, *data = load_run(run)
            train, val = (gather(detector, split, given.device) for split in data)
            results[str(run.relative_to(folder))] = probe(train, val, data[1].num_classes)
        write(results, given.output)
    except InputError as error:
        return complain(error)
    print(f"written: {given.output} and {given.output.with_suffix('.md')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
