"""Mask MLPs: whole maps and sampled cells give the same numbers; losses; proposals."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from fpn_lightning.errors import InputError
from fpn_lightning.models.masks.loss import mask_loss
from fpn_lightning.models.masks.mlp import MaskMLP
from fpn_lightning.models.masks.proposer import MaskProposer
from fpn_lightning.models.sampler import image_seeds
from tests.models.builders import box_masks, check_that_a_batch_may_be_split, feature_maps, image_batch, targets

STRIDES = {"p3": 8, "p4": 16}


def make(**options):
    torch.manual_seed(0)
    options = {"base_size": 16, "mask_size": 4, "hidden_channels": 8, **options}
    return MaskProposer(6, STRIDES, **options)


features = partial(feature_maps, STRIDES)


def objects(*images):
    """Targets whose masks are their boxes."""
    found = [targets(boxes) for boxes in images]
    for target in found:
        target.masks = box_masks(target.boxes, 64, 96)
    return found


@pytest.mark.parametrize("window", [5, 7])
def test_sampled_cells_equal_the_dense_form(window):
    torch.manual_seed(0)
    mlp = MaskMLP(6, window, mask_size=4, hidden_channels=8).double()
    feature = torch.randn(2, 6, 9, 11, dtype=torch.float64)
    scores, masks = mlp(feature)
    image, row, column = (x.flatten() for x in torch.meshgrid(*map(torch.arange, (2, 9, 11)), indexing="ij"))
    order = torch.randperm(len(image))  # every cell, borders too, in any order
    image, row, column = image[order], row[order], column[order]
    hidden = mlp.hidden_at(feature, image, row, column)
    place = row * 11 + column
    torch.testing.assert_close(mlp.score_logits_of(hidden), scores[image, place], atol=1e-13, rtol=0)
    torch.testing.assert_close(mlp.mask_logits_of(hidden), masks[image, place], atol=1e-13, rtol=0)
    torch.testing.assert_close(mlp.score_map(feature), scores, atol=0, rtol=0)


def test_sampled_losses_and_gradients_equal_the_dense_form():
    masks = make(batch_size_per_image=32, loss="logistic").double()
    maps = features(dtype=torch.float64)
    images, truth = image_batch([(64, 96), (64, 96)]), objects([[8, 8, 24, 24], [30, 20, 53, 40]], [[40, 30, 72, 50]])
    seeds = image_seeds(0, 0, images.image_ids)
    for value in maps.values():
        value.requires_grad_()
    losses = masks.losses(maps, images, truth, seeds)
    sum(losses.values()).backward()
    sparse = [p.grad.clone() for p in masks.parameters()] + [value.grad.clone() for value in maps.values()]
    for tensor in (*masks.parameters(), *maps.values()):
        tensor.grad = None

    # The same by convolution over whole maps.
    grid = masks.grid(maps)
    match_labels, matched = masks.label_cells(grid, images, truth)
    positive, negative = masks.sampler(match_labels, seeds)
    dense = [mlp(maps[name]) for name in STRIDES for mlp in masks.mlps]
    scores = torch.cat([score for score, _ in dense], dim=1)
    logits = torch.cat([mask for _, mask in dense], dim=1)
    chosen = positive | negative
    score_loss = torch.nn.functional.binary_cross_entropy_with_logits(
        scores[chosen], positive[chosen].double(), reduction="sum"
    )
    mask_sum = torch.zeros((), dtype=torch.float64)
    for n, cell in positive.nonzero().tolist():
        x1, y1, x2, y2 = truth[n].boxes[matched[n, cell]].tolist()
        (left, top, right, _) = grid.windows(torch.tensor([cell]), 0.25)[0].tolist()
        side = (right - left) / 4
        for i in range(4):
            for j in range(4):
                wide = min(x2, left + side * (j + 1)) - max(x1, left + side * j)
                high = min(y2, top + side * (i + 1)) - max(y1, top + side * i)
                target = float(max(wide, 0) * max(high, 0) / side**2 >= 0.5)
                z = logits[n, cell, i, j]
                mask_sum = mask_sum + torch.log1p(torch.exp(-z if target else z)) / 16
    assert (
        int(positive.sum()) == 8 + 4
    )  # at most a quarter of 32 in each image; 4 cells are in reach of the last object
    expected = {"loss_mask": 10 * mask_sum / 64, "loss_mask_score": score_loss / 64}
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-6), name
    sum(expected.values()).backward()
    for one, other in zip(sparse, [*masks.parameters(), *maps.values()], strict=True):
        # the logits pass through float32 in the loss
        torch.testing.assert_close(one, other.grad, atol=1e-7, rtol=1e-5)


def test_losses_by_hand():
    masks = make(windows=(5,), octaves=(0.0,), batch_size_per_image=8)
    for parameter in masks.parameters():
        parameter.data.zero_()
    images, truth = image_batch([(64, 96)]), objects([[8, 8, 24, 24]])
    losses = masks.losses(features(1), images, truth, torch.zeros(1, dtype=torch.int64))
    # Every logit is 0 and costs log 2: 8 scores over 8 cells; 2 of 8 are positive, each mask's mean is log 2, times 10.
    assert losses["loss_mask_score"].item() == pytest.approx(math.log(2), abs=1e-6)
    assert losses["loss_mask"].item() == pytest.approx(10 * 2 / 8 * math.log(2), abs=1e-6)
    masks.normalizer = "positives"
    losses = masks.losses(features(1), images, truth, torch.zeros(1, dtype=torch.int64))
    assert losses["loss_mask"].item() == pytest.approx(10 * math.log(2), abs=1e-6)


def test_forms_of_the_mask_loss_by_hand():
    logits = torch.tensor([[[0.0, 0], [0, 0]]])
    wanted = torch.tensor([[[1.0, 0], [0, 0]]])
    assert mask_loss(logits, wanted, "logistic").item() == pytest.approx(math.log(2))
    # p = 1/2 everywhere: overlap 1/2, |p|² = 4/4, |t|² = 1, so 1 - 2 · 1/2 / 2.
    assert mask_loss(logits, wanted, "dice").item() == pytest.approx(0.5)
    for form in ("logistic", "dice"):
        assert mask_loss(torch.zeros(0, 2, 2), torch.zeros(0, 2, 2), form).item() == 0


def test_splitting_a_batch_leaves_the_gradient_unchanged():
    masks = make()
    maps, images = features(count=4), image_batch([(64, 96)] * 4)
    truth = objects([[8, 8, 24, 24]], [], [[0, 0, 60, 60], [30, 30, 40, 50]], [[5, 5, 9, 9]])
    seeds = image_seeds(0, 3, images.image_ids)

    def losses(part):
        sub = type(images)(**{name: value[part] for name, value in vars(images).items()})
        return masks.losses({name: value[part] for name, value in maps.items()}, sub, truth[part], seeds[part])

    check_that_a_batch_may_be_split(masks, 4, losses)


def test_images_without_objects_give_finite_losses_and_all_gradients():
    masks = make()
    images = image_batch([(64, 96), (64, 96)])
    losses = masks.losses(features(), images, objects([], []), image_seeds(0, 0, images.image_ids))
    sum(losses.values()).backward()
    assert losses["loss_mask"].item() == 0
    assert losses["loss_mask_score"].item() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in masks.parameters())


def test_objects_without_masks_are_rejected():
    images = image_batch([(64, 96)])
    with pytest.raises(InputError, match=r"data\.load_masks"):
        make().losses(features(1), images, [targets([[8, 8, 24, 24]])], image_seeds(0, 0, images.image_ids))


def test_proposals_are_the_best_scores_with_their_masks():
    masks, maps = make(topk=20), features()
    found = masks.predict(maps, torch.tensor([[64, 96], [40, 50]]))
    dense = [mlp(maps[name]) for name in STRIDES for mlp in masks.mlps]
    scores = torch.cat([score for score, _ in dense], dim=1)
    logits = torch.cat([mask for _, mask in dense], dim=1)
    grid = masks.grid(maps)
    torch.testing.assert_close(masks(maps), scores)
    for n, size in enumerate([(64, 96), (40, 50)]):
        assert len(found[n]) == 20
        assert (found[n].scores[1:] <= found[n].scores[:-1]).all()
        best = scores[n].masked_fill(~grid.inside(size), -math.inf).topk(20)
        torch.testing.assert_close(found[n].scores, best.values)
        torch.testing.assert_close(found[n].mask_logits, logits[n, best.indices], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found[n].windows, grid.windows(best.indices, 0.25))
        centres = (found[n].windows[:, :2] + found[n].windows[:, 2:]) / 2
        assert (centres[:, 0] < size[1]).all()
        assert (centres[:, 1] < size[0]).all()
        # a window of 20 px belongs to p3, of 40 px to p4, those of the 7x7 MLP are √2 larger
        sides = found[n].windows[:, 2] - found[n].windows[:, 0]
        assert torch.equal(found[n].levels, torch.where(sides < 39, 3, 4))


def test_fewer_cells_than_proposals_and_equal_batches():
    masks, maps = make(topk=10_000), features()
    both = masks.predict(maps, torch.tensor([[64, 96], [64, 96]]))
    assert len(both[0]) == 2 * (8 * 12 + 4 * 6)
    alone = masks.predict({name: value[1:] for name, value in maps.items()}, torch.tensor([[64, 96]]))
    torch.testing.assert_close(both[1].scores, alone[0].scores, atol=1e-6, rtol=1e-5)


def test_options_of_labels_and_targets_are_used():
    maps, images = features(1), image_batch([(64, 96)])
    truth = objects([[20, 20, 38, 38], [19, 19, 35, 35]])  # centres (29, 29) and (27, 27) among cells 8 px apart
    positives, matched, mask_losses = {}, {}, {}
    for name, options in {
        "default": {},
        "near": {"centre_tolerance": 0.5},
        "smallest": {"tie_break": "smallest"},
        "soft": {"soft_targets": True},
    }.items():
        masks = make(**options)
        labels, matched_idxs = masks.label_cells(masks.grid(maps), images, truth)
        positives[name] = int((labels == 1).sum())
        matched[name] = matched_idxs[labels == 1].tolist()
        mask_losses[name] = masks.losses(maps, images, truth, torch.tensor([3]))["loss_mask"].item()
    assert 0 < positives["near"] < positives["default"] == positives["smallest"]
    assert set(matched["default"]) == {0, 1}
    assert set(matched["smallest"]) == {1}
    assert mask_losses["soft"] != mask_losses["default"]


def test_diverged_scores_are_rejected():
    masks = make()
    masks.mlps[0].score_logits.bias.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="diverged"):
        masks.predict(features(1), torch.tensor([[64, 96]]))


@pytest.mark.parametrize(
    "options",
    [
        {"windows": (4,), "octaves": (0.0,)},
        {"windows": (5, 7), "octaves": (0.0,)},
        {"windows": (), "octaves": ()},
        {"mask_size": 0},
        {"centre_tolerance": 0.4},
        {"batch_size_per_image": 0},
        {"positive_fraction": 0.0},
        {"mask_weight": -1.0},
    ],
)
def test_values_out_of_range_are_named(options):
    with pytest.raises(InputError, match="|".join(options)):
        make(**options)


def test_the_papers_numbers_are_the_defaults():
    masks = MaskProposer(128, {f"p{k}": 2**k for k in range(2, 7)})
    # FPN §6, App. A: sizes 32 to 512 on P2 to P6, half octaves for the 7x7, 512 hidden, 14 x 14, 128 at 1:3, 10:1
    assert [sizes[0] for sizes in masks.sizes] == [32, 64, 128, 256, 512]
    assert masks.sizes[2][1] == pytest.approx(128 * math.sqrt(2))
    assert [tuple(mlp.hidden.weight.shape) for mlp in masks.mlps] == [(512, 128, 5, 5), (512, 128, 7, 7)]
    assert [mlp.mask_logits.out_channels for mlp in masks.mlps] == [196, 196]
    assert (masks.sampler.batch_size_per_image, masks.sampler.positive_fraction) == (128, 0.25)
    assert (masks.mask_weight, masks.padding, masks.topk) == (10, 0.25, 1000)
