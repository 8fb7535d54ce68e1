"""Masks into windows and back: exact coverage, flips, run lengths."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_api

from fpn_lightning.data.coco.segmentations import compressed_rle
from fpn_lightning.geometry import Geometry
from fpn_lightning.mask_structures import MaskProposals
from fpn_lightning.models.masks.loss import target_masks
from fpn_lightning.models.masks.paste import encode_columns, paste_masks
from fpn_lightning.models.masks.targets import covered, mask_targets
from tests.models.builders import image_batch, targets

SQUARE = [[2.0, 1, 6, 1, 6, 4, 2, 4]]  # columns 2 to 5, rows 1 to 3
LOPSIDED = [[1.0, 1, 4, 1, 4, 4, 1, 4]]  # columns 1 to 3 of the file are 4 to 6 of the mirrored one


def test_coverage_by_hand():
    bitmap = mask_api.decode(compressed_rle(SQUARE, 6, 8))
    assert bitmap.tolist() == [[0] * 8, *[[0, 0, 1, 1, 1, 1, 0, 0]] * 3, [0] * 8, [0] * 8]
    # The window from (1, 0) to (5, 4) has cells of 2 px: the upper left one holds the pixel (2, 1) of its four.
    assert covered(bitmap, np.array([1.0, 0, 5, 4]), 2).tolist() == [[0.25, 0.5], [0.5, 1.0]]
    # Half-pixel cells and a window that reaches beyond the image, where nothing is.
    assert covered(bitmap, np.array([1.5, 0.5, 2.5, 1.5]), 2).tolist() == [[0, 0], [0, 1.0]]
    assert covered(bitmap, np.array([-4.0, -4, 4, 4]), 2).tolist() == [[0, 0], [0, 6 / 16]]
    assert covered(bitmap, np.array([20.0, 20, 24, 24]), 2).tolist() == [[0, 0], [0, 0]]


def test_targets_follow_resizing_and_flipping():
    # The file is 8 x 6, the input 16 x 12: the window from (2, 0) to (10, 8) is the one above, twice as large.
    masks = [compressed_rle(polygons, 6, 8) for polygons in (SQUARE, LOPSIDED)]
    windows, geometry = np.array([[2.0, 0, 10, 8]]), Geometry((6, 8), (12, 16))
    assert mask_targets(masks, np.array([0]), windows, geometry, 2).tolist() == [[[0.25, 0.5], [0.5, 1.0]]]
    # Mirrored, the square's columns 2 to 5 are 2 to 5 again, and the window stands for columns 3 to 6 of the file.
    flipped = replace(geometry, flipped=True)
    assert flipped.to_image(windows).tolist() == [[3.0, 0, 7, 4]]
    assert mask_targets(masks, np.array([0]), windows, flipped, 2).tolist() == [[[0.25, 0.5], [0.5, 1.0]]]
    assert mask_targets(masks, np.array([1]), windows, flipped, 2).tolist() == [[[0, 0.25], [0, 0.5]]]


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("segmentation", [SQUARE, LOPSIDED])
def test_targets_through_a_crop_are_those_of_the_cropped_image(segmentation, flipped):
    # Columns 3 to 6 and rows 0 to 2 of the file, which cut both objects; windows inside, across the border, outside.
    crop, size = (3, 0, 7, 3), (9, 16)
    mask = compressed_rle(segmentation, 6, 8)
    cut = mask_api.encode(np.asfortranarray(mask_api.decode(mask)[0:3, 3:7]))
    cut = {"size": [3, 4], "counts": cut["counts"].decode()}
    windows = np.array([[0.0, 0, 8, 8], [-5, -3, 6, 8], [10, 5, 21, 16], [16, 0, 20, 4], [-8, 0, 24, 32]])
    one = mask_targets([mask], np.zeros(5, int), windows, Geometry((6, 8), size, flipped, crop), 4)
    other = mask_targets([cut], np.zeros(5, int), windows, Geometry((3, 4), size, flipped), 4)
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert one.any()
    assert not one[3].any()


@pytest.mark.parametrize("soft", [True, False])
def test_a_cell_learns_the_mask_of_its_own_object(soft):
    # As above, mirrored and enlarged, the second object of the second image.
    images = image_batch([(12, 16), (12, 16)])
    images.geometries[1] = Geometry((6, 8), (12, 16), flipped=True)
    truth = [targets([]), targets([[0, 0, 16, 12], [8, 2, 14, 8]])]
    truth[1].masks = [compressed_rle([[0.0, 0, 8, 0, 8, 6, 0, 6]], 6, 8), compressed_rle(LOPSIDED, 6, 8)]
    wanted = target_masks(images, truth, torch.tensor([1]), torch.tensor([1]), torch.tensor([[2.0, 0, 10, 8]]), 2, soft)
    assert wanted.tolist() == ([[[0, 0.25], [0, 0.5]]] if soft else [[[0, 0], [0, 1]]])


def test_all_forms_of_a_mask_give_the_same_run_lengths():
    bitmap = mask_api.decode(compressed_rle(SQUARE, 6, 8))
    coded = mask_api.encode(np.asfortranarray(bitmap))
    text = {"size": [6, 8], "counts": coded["counts"].decode()}
    plain = {"size": [6, 8], "counts": [13, 3, 3, 3, 3, 3, 3, 3, 14]}  # 12 px of two columns, 1 above, 3 inside, ...
    for form in (SQUARE, text, plain):
        assert compressed_rle(form, 6, 8) == text
        assert np.array_equal(mask_api.decode(compressed_rle(form, 6, 8)), bitmap)


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_equal_those_of_the_whole_bitmap(seed):
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(1, 12, 2))
    top, left = int(rng.integers(0, height + 1)), int(rng.integers(0, width + 1))
    h, w = int(rng.integers(0, height - top + 1)), int(rng.integers(0, width - left + 1))
    part = rng.random((w, h)) < rng.choice([0, 0.5, 1])
    if seed == 0:  # whole columns: runs go on from one to the next
        top, left, h, w, part = 0, 0, height, width, np.ones((width, height), dtype=bool)
    whole = np.zeros((height, width), dtype=np.uint8, order="F")
    whole[top : top + h, left : left + w] = part.T
    expected = mask_api.encode(whole)
    assert encode_columns(part, top, left, height, width) == {
        "size": [height, width],
        "counts": expected["counts"].decode(),
    }


def proposal(logits, window):
    logits = torch.tensor([logits], dtype=torch.float32)
    return MaskProposals(logits, torch.tensor([window]), torch.zeros(1), torch.full((1,), 2))


def test_pasting_by_hand():
    # Cells of 2 px from (2, 0) to (6, 4); one of four is foreground.
    found = proposal([[-9.0, -9], [-9, 9]], [2.0, 0, 6, 4])
    (mask,) = paste_masks(found, Geometry((6, 8), (6, 8)), 0.5, "nearest")
    bitmap = mask_api.decode(mask)
    assert np.argwhere(bitmap).tolist() == [[2, 4], [2, 5], [3, 4], [3, 5]]
    (mirrored,) = paste_masks(found, Geometry((6, 8), (6, 8), flipped=True), 0.5, "nearest")
    assert np.array_equal(mask_api.decode(mirrored), bitmap[:, ::-1])
    # In a file of twice the size it covers twice as many rows and columns.
    (large,) = paste_masks(found, Geometry((12, 16), (6, 8)), 0.5, "nearest")
    assert np.array_equal(mask_api.decode(large), bitmap.repeat(2, axis=0).repeat(2, axis=1))
    # Where the input is the part of a file that begins at column 5 and row 1, it lies so much further.
    (moved,) = paste_masks(found, Geometry((9, 20), (6, 8), window=(5, 1, 13, 7)), 0.5, "nearest")
    assert np.argwhere(mask_api.decode(moved)).tolist() == [[3, 9], [3, 10], [4, 9], [4, 10]]


def test_bilinear_pasting_and_threshold_by_hand():
    # Logits -2 and 2 at x = 1 and x = 3 (cell centres); pixel centres 0.5, 1.5, 2.5, 3.5 get -2, -1, 1, 2.
    found = proposal([[-2.0, 2], [-2, 2]], [0.0, 0, 4, 4])
    # Probabilities of -2, -1, 1, 2: 0.119, 0.269, 0.731, 0.881.
    for threshold, columns in ((0.1, [0, 1, 2, 3]), (0.2, [1, 2, 3]), (0.5, [2, 3]), (0.8, [3]), (0.9, [])):
        (mask,) = paste_masks(found, Geometry((4, 4), (4, 4)), threshold)
        assert np.flatnonzero(mask_api.decode(mask).all(axis=0)).tolist() == columns
        assert mask_api.area(mask) == 4 * len(columns)


def test_windows_outside_the_image_give_empty_masks():
    for window in ([20.0, 0, 24, 4], [0.0, -9, 4, -5], [3.6, 0, 3.9, 0.3]):
        (mask,) = paste_masks(proposal([[9.0]], window), Geometry((6, 8), (6, 8)))
        assert mask_api.area(mask) == 0


@pytest.mark.parametrize("flipped", [False, True])
def test_pasting_a_target_gives_the_object_back(flipped):
    # An ellipse of 60 x 40 px in a file of 200 x 120; the input is 1.5 times as large.
    y, x = np.mgrid[:120, :200] + 0.5
    bitmap = np.asfortranarray((((x - 90) / 30) ** 2 + ((y - 70) / 20) ** 2 <= 1).astype(np.uint8))
    segmentation = {"size": [120, 200], "counts": mask_api.encode(bitmap)["counts"].decode()}
    centre = (300 - 135 if flipped else 135, 105)
    window = [[centre[0] - 56.0, centre[1] - 56.0, centre[0] + 56.0, centre[1] + 56.0]]
    ious, geometry = [], Geometry((120, 200), (180, 300), flipped)
    for m in (14, 28):
        coverage = mask_targets([segmentation], np.array([0]), np.array(window), geometry, m)
        logits = np.where(coverage[0] >= 0.5, 4.0, -4.0).tolist()
        masks = paste_masks(proposal(logits, window[0]), geometry, 0.5)
        ious.append(float(mask_api.iou(masks, [segmentation], [0])[0, 0]))
    assert ious[0] > 0.9
    assert ious[1] > 0.94  # twice the resolution loses less
