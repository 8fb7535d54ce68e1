"""The region proposal network: labels, losses, proposals."""

from functools import partial

import pytest
import torch
from torchvision.ops import box_iou

from fpn_lightning.errors import InputError
from fpn_lightning.models.anchors import AnchorGenerator
from fpn_lightning.models.nms import nms_in_one_call, nms_per_level
from fpn_lightning.models.rpn import RPN, RPNOutputs
from fpn_lightning.models.sampler import image_seeds
from tests.models.builders import check_that_a_batch_may_be_split, feature_maps, targets

STRIDES = {"p3": 8, "p4": 16}


def make_rpn(**options):
    torch.manual_seed(0)
    return RPN(6, AnchorGenerator(STRIDES, [[16], [32]]), **options)


features = partial(feature_maps, STRIDES)


def test_shapes_and_order():
    rpn = make_rpn()
    outputs = rpn(features())
    assert [tuple(x.shape) for x in outputs.logits] == [(2, 8 * 12 * 3), (2, 4 * 6 * 3)]
    assert [tuple(x.shape) for x in outputs.deltas] == [(2, 288, 4), (2, 72, 4)]
    assert [tuple(x.shape) for x in outputs.anchors] == [(288, 4), (72, 4)]
    # anchor a of cell (i, j) carries channel a of the head's output at that cell
    feature = features()["p3"]
    hidden = rpn.heads[0].conv(feature).relu()
    i, j, a = 3, 5, 2
    assert torch.allclose(
        outputs.logits[0][1, (i * 12 + j) * 3 + a], rpn.heads[0].objectness_logits(hidden)[1, a, i, j]
    )
    deltas = rpn.heads[0].anchor_deltas(hidden)[1, 4 * a : 4 * a + 4, i, j]
    assert torch.allclose(outputs.deltas[0][1, (i * 12 + j) * 3 + a], deltas, atol=1e-7)


def test_labels_follow_the_rules():
    rpn = make_rpn()
    truth = [targets([[8, 8, 24, 24], [40, 20, 90, 60]]), targets([])]
    anchors = torch.cat(rpn(features()).anchors)
    match_labels, matched_idxs = rpn.label_anchors(anchors, truth)
    iou = box_iou(truth[0].boxes, anchors)
    positive = match_labels[0] == 1
    assert (iou.max(dim=0).values[match_labels[0] == 0] < 0.3).all()
    assert positive[iou[0].argmax()]
    assert positive[iou[1].argmax()]  # no anchor reaches 0.7 with the wide object
    assert iou[1].max() < 0.7
    assert (matched_idxs[0][positive] == iou[:, positive].argmax(0)).all()
    assert (match_labels[1] == 0).all()


def test_losses_by_hand():
    # One level, one image; the logit of every anchor is 0, so each sampled anchor costs log 2.
    rpn = make_rpn(batch_size_per_image=4)
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 20, 20], [50, 50, 60, 60], [70, 70, 80, 80]])
    outputs = RPNOutputs([torch.zeros(1, 4)], [torch.zeros(1, 4, 4)], [anchors])
    truth = [targets([[1, 0, 11, 10]])]  # IoU with anchor 0: 90 / 110 = 0.82
    losses = rpn.losses(outputs, truth, torch.zeros(1, dtype=torch.int64))
    # anchor 1: IoU 100 / 400 = 0.25 (negative), so 1 positive and 3 negatives are sampled
    assert losses["loss_rpn_cls"].item() == pytest.approx(0.693147, abs=1e-5)
    # dx = 0.1 < beta = 1/9: 0.5 * 0.1² * 9 = 0.045, over 4 anchors
    assert losses["loss_rpn_loc"].item() == pytest.approx(0.045 / 4, abs=1e-6)


def test_splitting_a_batch_leaves_the_gradient_unchanged():
    rpn = make_rpn()
    maps = features(count=4)
    truth = [targets(boxes) for boxes in ([[8, 8, 24, 24]], [], [[0, 0, 60, 60], [30, 30, 40, 50]], [[5, 5, 9, 9]])]
    seeds = image_seeds(0, 3, torch.arange(4))

    def losses(part):
        return rpn.losses(rpn({name: value[part] for name, value in maps.items()}), truth[part], seeds[part])

    check_that_a_batch_may_be_split(rpn, 4, losses)


def test_images_without_objects_give_finite_losses_and_gradients():
    rpn = make_rpn()
    losses = rpn.losses(rpn(features()), [targets([]), targets([])], image_seeds(0, 0, torch.arange(2)))
    sum(losses.values()).backward()
    assert losses["loss_rpn_loc"].item() == 0
    assert losses["loss_rpn_cls"].item() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in rpn.parameters())


def test_anchors_outside_the_image_are_sampled():
    rpn = make_rpn()
    outputs = rpn(features(count=1))
    anchors = torch.cat(outputs.anchors)
    outside = (anchors[:, :2] < 0).any(1) | (anchors[:, 2] > 96) | (anchors[:, 3] > 64)
    match_labels, _ = rpn.label_anchors(anchors, [targets([[30, 30, 46, 46]])])
    assert outside.sum() > 50
    assert (match_labels[0][outside] == 0).all()  # labelled as any other, not ignored


def test_proposals_are_sorted_inside_and_apart():
    rpn = make_rpn(pre_nms_topk=100, post_nms_topk=50)
    outputs = rpn(features())
    for delta in outputs.deltas:
        delta.mul_(30)
    sizes = torch.tensor([[64, 96], [50, 70]])
    first, second = rpn.predict(outputs, sizes)
    for proposals, (height, width) in ((first, (64, 96)), (second, (50, 70))):
        assert 0 < len(proposals) <= 50
        assert (proposals.objectness[1:] <= proposals.objectness[:-1]).all()
        assert (proposals.boxes >= 0).all()
        assert (proposals.boxes[:, 2] <= width).all()
        assert (proposals.boxes[:, 3] <= height).all()
        assert set(proposals.levels.tolist()) <= {3, 4}
        same_level = proposals.levels[:, None] == proposals.levels
        iou = box_iou(proposals.boxes, proposals.boxes).fill_diagonal_(0)
        assert (iou[same_level] <= 0.7 + 1e-5).all()


@pytest.mark.parametrize("count", [0, 1, 900, 2500])  # torchvision's batched_nms has another way above 1,000 boxes
def test_nms_in_one_call_and_per_level_keep_the_same_boxes_in_the_same_order(count):
    generator = torch.Generator().manual_seed(count)
    top_left, sides = 200 * torch.rand((2, count, 2), generator=generator)
    boxes = torch.cat((top_left, top_left + sides / 3), dim=1)
    levels = torch.randint(2, 6, (count,), generator=generator)
    scores = torch.randn(count, generator=generator).round(decimals=1)  # many equal scores
    kept = nms_per_level(boxes, scores, levels, 0.3)
    assert torch.equal(kept, nms_in_one_call(boxes, scores, levels, boxes.new_tensor(300), 0.3))
    assert len(kept) < max(count, 2)
    for level in range(2, 6):
        overlaps = box_iou(*[boxes[kept[levels[kept] == level]]] * 2)
        assert (overlaps.fill_diagonal_(0) <= 0.3).all()


def test_top_k_is_per_level_before_and_per_image_after_nms():
    rpn = make_rpn(pre_nms_topk=10, post_nms_topk=15, nms_thresh=1.0)
    (proposals,) = rpn.predict(rpn(features(count=1)), torch.tensor([[64, 96]]))
    assert len(proposals) == 15
    rpn.post_nms_topk = 100
    (proposals,) = rpn.predict(rpn(features(count=1)), torch.tensor([[64, 96]]))
    assert (proposals.levels == 3).sum() == 10
    assert (proposals.levels == 4).sum() == 10


def test_same_proposals_whatever_the_batch():
    rpn = make_rpn()
    both = rpn.predict(rpn(features()), torch.tensor([[64, 96], [64, 96]]))
    alone = rpn.predict(rpn({k: v[1:] for k, v in features().items()}), torch.tensor([[64, 96]]))
    assert len(both[1]) == len(alone[0])
    assert torch.allclose(both[1].boxes, alone[0].boxes, atol=1e-4)


def test_diverged_outputs_are_rejected():
    rpn = make_rpn()
    outputs = rpn(features(count=1))
    outputs.logits[0][0, 0] = float("inf")
    with pytest.raises(FloatingPointError, match="diverged"):
        rpn.predict(outputs, torch.tensor([[64, 96]]))


def test_unshared_heads_differ_by_level_and_may_differ_in_anchors():
    shared, unshared = make_rpn(), make_rpn(shared_head=False)
    assert sum(p.numel() for p in unshared.parameters()) == 2 * sum(p.numel() for p in shared.parameters())
    maps = features(count=1)
    outputs = unshared(maps)
    assert torch.allclose(outputs.logits[1], unshared.heads[1](maps["p4"])[0])
    assert not torch.allclose(outputs.logits[1], unshared.heads[0](maps["p4"])[0])

    uneven = AnchorGenerator(STRIDES, [[16], [32, 64]])
    assert [x.shape[1] for x in RPN(6, uneven, shared_head=False)(maps).logits] == [288, 144]
    with pytest.raises(InputError, match=r"same number of anchors per cell .* gives \[3, 6\]"):
        RPN(6, uneven)
