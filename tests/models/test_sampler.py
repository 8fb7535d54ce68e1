"""Sampling: counts, uniformity, and dependence on the seed alone."""

import torch

from fpn_lightning.models.sampler import Sampler, image_seeds, random_keys


def labels(positives, negatives, ignored=0):
    return torch.tensor([1] * positives + [0] * negatives + [-1] * ignored, dtype=torch.int8)


def test_counts():
    match_labels = torch.stack((labels(300, 700), labels(10, 990), labels(0, 100, 900), labels(990, 10)))
    positive, negative = Sampler(256, 0.5)(match_labels, torch.arange(4))
    assert positive.sum(1).tolist() == [128, 10, 0, 128]
    assert negative.sum(1).tolist() == [128, 246, 100, 10]  # missing positives are replaced, missing negatives are not
    assert not (positive & (match_labels != 1)).any()
    assert not (negative & (match_labels != 0)).any()


def test_each_image_has_its_own_stream():
    match_labels = torch.stack([labels(40, 60)] * 3)
    sampler = Sampler(20)
    together = sampler(match_labels, torch.tensor([5, 6, 5]))[0]
    alone = sampler(match_labels[1:2], torch.tensor([6]))[0]
    assert torch.equal(together[1:2], alone)
    assert torch.equal(together[0], together[2])
    assert not torch.equal(together[0], together[1])


def test_seeds_depend_on_run_step_and_image():
    ids = torch.tensor([7, 8])
    seeds = [image_seeds(0, 0, ids), image_seeds(1, 0, ids), image_seeds(0, 1, ids), image_seeds(0, 0, ids + 2)]
    assert len({int(value) for pair in seeds for value in pair}) == 8
    assert torch.equal(image_seeds(3, 9, ids), image_seeds(3, 9, ids.flip(0)).flip(0))


def test_known_values_pin_the_stream():
    # A change here changes every training run: SplitMix64's first output for state 0 is 0xE220A8397B1DCDAF.
    expected = 0xE220A8397B1DCDAF & 0x7FFFFFFFFFFFFFFF
    assert int(random_keys(torch.tensor([0]), 1)) == expected


def test_draws_are_uniform():
    # 4,000 draws of 5 out of 50: each candidate is drawn 400 times give or take; 5.5 sigma is 104.
    match_labels = labels(0, 50).expand(4000, -1)
    drawn = Sampler(5)(match_labels, image_seeds(0, 0, torch.arange(4000)))[1].sum(0)
    assert drawn.sum() == 20_000
    assert (drawn - 400).abs().max() < 104


def test_neighbouring_images_are_uncorrelated():
    keys = random_keys(image_seeds(0, 0, torch.arange(2)), 20_000).double()
    correlation = torch.corrcoef(keys)[0, 1]
    assert abs(correlation) < 0.04  # 5.5 sigma of 1/sqrt(20000)
