"""Proposal stores: what was written is read, and a store that is incomplete or of other images is named."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fpn_lightning.data.proposals.header import IMAGE
from fpn_lightning.data.proposals.store import ProposalStore, StoredProposals
from fpn_lightning.data.proposals.writer import ShardWriter, complete_store
from fpn_lightning.errors import InputError
from tests.data.builders import FINGERPRINT, random_proposals, store_header, write_store

IMAGE_IDS = [7, 3, 900_000_000_001, 12, 5]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images in two shards; image 12 has no proposals."""
    return write_store(tmp_path / "proposals" / "val", IMAGE_IDS, num_processes=2)


def same(left: StoredProposals, right: StoredProposals) -> bool:
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(left, right, strict=True))


def test_what_is_written_is_read(folder: Path) -> None:
    store = ProposalStore(folder)
    assert store.image_ids.tolist() == sorted(IMAGE_IDS)
    counts = {image_id: len(random_proposals(image_id).levels) for image_id in IMAGE_IDS}
    assert store.header.shards == (
        21 * (counts[7] + counts[900_000_000_001] + counts[5]),
        21 * (counts[3] + counts[12]),
    )
    for image_id in IMAGE_IDS:
        assert same(store.read(image_id), random_proposals(image_id))
        assert same(store.read(image_id, limit=2), StoredProposals(*(a[:2] for a in random_proposals(image_id))))
    assert [array.shape for array in store.read(12)] == [(0, 4), (0,), (0,)]
    assert len(store) == store.header.num_images == 5
    assert store.header.num_proposals == sum(counts.values())
    store.read(7).boxes_orig[:] = 0  # a copy that can be written to
    assert same(store.read(7), random_proposals(7))


def test_numbers_by_hand(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path)
    writer.add(4, np.array([[1.5, 2, 30, 40], [0, 0, 1 / 3, 7]]), np.array([2.5, -1]), np.array([2, 6]))
    writer.close()
    complete_store(tmp_path, 1, store_header(), np.array([4]))
    header = json.loads((tmp_path / "header.json").read_text())
    assert (header["format"], header["version"], header["num_images"]) == ("fpn_lightning proposals", 2, 1)
    assert (header["data_name"], header["split"], header["fingerprint"]) == ("tiny", "val", FINGERPRINT)
    assert (header["post_nms_topk"], header["nms_thresh"]) == (2000, 0.7)
    assert (header["num_proposals"], header["shards"]) == (2, [2 * (4 * 4 + 4 + 1)])
    assert {path.name for path in tmp_path.iterdir()} == {"header.json"} | {
        header["token"] + end for end in (".npy", "-0000.bin")
    }
    boxes_orig, objectness, levels = ProposalStore(tmp_path).read(4)
    assert boxes_orig.tolist() == [[1.5, 2, 30, 40], [0, 0, np.float32(1 / 3), 7]]
    assert (objectness.tolist(), levels.tolist()) == ([2.5, -1], [2, 6])


def test_order_and_number_of_processes_do_not_matter(folder: Path, tmp_path: Path) -> None:
    other = ProposalStore(write_store(tmp_path / "other", sorted(IMAGE_IDS, reverse=True)))
    assert all(same(other.read(image_id), ProposalStore(folder).read(image_id)) for image_id in IMAGE_IDS)


def test_no_image_may_have_a_proposal(tmp_path: Path) -> None:
    store = ProposalStore(write_store(tmp_path, [6, 12]))
    assert store.header.num_proposals == 0
    assert [array.shape for array in store.read(12)] == [(0, 4), (0,), (0,)]


def test_a_process_without_images_and_a_split_that_is_not_complete(folder: Path, tmp_path: Path) -> None:
    for rank in (1, 0, 2):
        writer = ShardWriter(tmp_path / "two", rank)
        for image_id in IMAGE_IDS[rank:4:2] if rank < 2 else []:
            writer.add(image_id, *random_proposals(image_id))
        writer.close()
    with pytest.raises(InputError, match=r"4 images were written, but split val has 5.*limit_predict_batches"):
        complete_store(tmp_path / "two", 3, store_header(), np.array(IMAGE_IDS))
    assert not (tmp_path / "two" / "header.json").exists()
    complete_store(tmp_path / "two", 3, store_header(), np.array(IMAGE_IDS[:4]))
    two, one = ProposalStore(tmp_path / "two"), ProposalStore(folder)
    assert all(same(two.read(image_id), one.read(image_id)) for image_id in IMAGE_IDS[:4])


def test_an_image_written_twice_is_rejected(tmp_path: Path) -> None:
    for rank in (0, 1):
        writer = ShardWriter(tmp_path, rank)
        writer.add(7, *random_proposals(7))
        writer.close()
    with pytest.raises(InputError, match="2 images were written, but split val has 1"):
        complete_store(tmp_path, 2, store_header(), np.array([7]))
    with pytest.raises(InputError, match="0 images were written, but split val has 1"):
        complete_store(tmp_path / "elsewhere", 2, store_header(), np.array([7]))


@pytest.mark.parametrize(
    ("boxes", "objectness"), [([[0, 0, np.nan, 1]], [1.0]), ([[0, 0, 1, 1]] * 2, [1.0, 2.0]), ([[0, 0, 1, 1]], [])]
)
def test_wrong_proposals_are_not_written(tmp_path: Path, boxes: list, objectness: list) -> None:
    with pytest.raises(ValueError, match="image 3"):
        ShardWriter(tmp_path).add(3, np.array(boxes), np.array(objectness), np.full(len(boxes), 2))


def test_an_earlier_store_stays_until_the_new_one_is_complete(folder: Path) -> None:
    before = {path.name for path in folder.iterdir()}
    for discard in (False, True):
        writer = ShardWriter(folder)
        writer.add(7, *random_proposals(8))
        if discard:
            writer.discard()
            assert {path.name for path in folder.iterdir()} == before
            continue
        writer.close()
        with pytest.raises(InputError, match="no store was made"):
            complete_store(folder, 1, store_header(), np.array(IMAGE_IDS))
        writer.release()
        assert same(ProposalStore(folder).read(7), random_proposals(7))
    old = ProposalStore(folder)
    write_store(folder, [7, 12])
    assert ProposalStore(folder).image_ids.tolist() == [7, 12]
    assert before & {path.name for path in folder.iterdir()} == {"header.json"}  # the old shards are gone
    with pytest.raises(InputError, match=r"can no longer be read.*another run replaced the store"):
        old.read(7)


def test_a_killed_writer_leaves_no_store(tmp_path: Path) -> None:
    code = f"""
import os, signal
import numpy as np
from pathlib import Path
from fpn_lightning.data.proposals.writer import ShardWriter
writer = ShardWriter(Path({str(tmp_path)!r}), rank=3)
writer.add(1, np.zeros((1000, 4)), np.zeros(1000), np.zeros(1000, int))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1  # the half of a shard
    (tmp_path / "0-0000-00000.safetensors").touch()  # and one of version 1
    with pytest.raises(InputError, match=r"not a complete proposal store: header\.json is missing.*predict"):
        ProposalStore(tmp_path)
    write_store(tmp_path, IMAGE_IDS)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".bin", ".json", ".npy"]


def rewrite(folder: Path, **changes: object) -> None:
    path = folder / "header.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def first_shard(folder: Path) -> Path:
    return next(folder.glob("*-0000.bin"))


def table(folder: Path) -> Path:
    return next(folder.glob("*.npy"))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated shard": (
        lambda folder: os.truncate(first_shard(folder), 20),
        r"bin has 20 bytes, but header\.json says \d+",
    ),
    "missing shard": (lambda folder: first_shard(folder).unlink(), r"-0000\.bin is missing"),
    "missing table": (lambda folder: table(folder).unlink(), r"\.npy cannot be read"),
    "truncated table": (lambda folder: os.truncate(table(folder), 200), r"\.npy cannot be read"),
    "empty table": (lambda folder: os.truncate(table(folder), 0), r"\.npy cannot be read"),
    "table of another kind": (lambda folder: np.save(table(folder), np.zeros(5)), r"\.npy cannot be read"),
    "table of other images": (
        lambda folder: np.save(table(folder), np.zeros(5, IMAGE)),
        r"numbers of images and proposals differ",
    ),
    "another token": (lambda folder: rewrite(folder, token="abc"), r"abc-0000\.bin is missing"),
    "files elsewhere": (lambda folder: rewrite(folder, token="../a"), r"header\.json: token"),
    "earlier version": (lambda folder: rewrite(folder, version=1), r"has version 1, but this program reads version 2"),
    "no version": (lambda folder: rewrite(folder, version=None), r"has version None"),
    "other JSON": (lambda folder: rewrite(folder, format="COCO"), r"is not the header of a proposal store"),
    "no JSON": (lambda folder: (folder / "header.json").write_bytes(b"\xff{"), r"header\.json cannot be read"),
    "a list": (lambda folder: (folder / "header.json").write_text("[]"), r"is not the header of a proposal store"),
    "unknown key": (lambda folder: rewrite(folder, more=1), r"header\.json: more"),
    "wrong type": (lambda folder: rewrite(folder, num_images="5"), r"header\.json: num_images"),
    "wrong number": (lambda folder: rewrite(folder, num_images=6), r"numbers of images and proposals differ"),
    "no header": (lambda folder: (folder / "header.json").unlink(), r"header\.json is missing"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_store_is_named_at_the_start(folder: Path, fault: str) -> None:
    break_it, message = BROKEN[fault]
    break_it(folder)
    with pytest.raises(InputError, match=message) as caught:
        ProposalStore(folder)
    assert "predict" in str(caught.value)
    assert str(folder) in str(caught.value)


def test_the_folder_above_names_its_stores(folder: Path) -> None:
    with pytest.raises(InputError, match="the folder contains the stores val"):
        ProposalStore(folder.parent)


def test_stores_of_other_images_are_rejected(folder: Path) -> None:
    store = ProposalStore(folder)
    store.check("val", FINGERPRINT, np.array([3, 7]))
    with pytest.raises(InputError, match="holds the proposals of split val, not of train"):
        store.check("train", FINGERPRINT, np.array([3]))
    with pytest.raises(InputError, match="made from another annotation file"):
        store.check("val", "1" * 64, np.array([3]))
    with pytest.raises(InputError, match=r"has no proposals of 2 images of val \(the first is image 4\);"):
        store.check("val", FINGERPRINT, np.array([3, 10**15, 4]))
    for missing in (4, 10**15):
        with pytest.raises(InputError, match=f"no proposals of image {missing}"):
            store.read(missing)


def test_damage_inside_a_shard_is_named(folder: Path) -> None:
    shard = first_shard(folder)
    content = bytearray(shard.read_bytes())
    start = content.index(random_proposals(7).boxes_orig[0].tobytes())
    content[start : start + 4] = np.float32("nan").tobytes()
    shard.write_bytes(content)
    with pytest.raises(InputError, match="proposals of image 7 are damaged"):
        ProposalStore(folder).read(7)


def test_a_copy_reads_in_another_process(folder: Path) -> None:
    store = ProposalStore(folder)
    store.read(7)
    code = "import pickle, sys; store = pickle.load(sys.stdin.buffer); print(store.read(7, 1).boxes_orig.tolist())"
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(store), capture_output=True, timeout=120)
    assert done.stdout.decode().strip() == str(random_proposals(7).boxes_orig[:1].tolist())


MEMORY = """
import sys
import numpy as np
from fpn_lightning.data.proposals.store import ProposalStore

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

before = resident()
store = ProposalStore(sys.argv[1])
in_turn, at_random = store.image_ids[:2000], np.random.default_rng(0).choice(store.image_ids, int(sys.argv[2]))
for image_id in [*in_turn, *at_random]:
    assert store.read(int(image_id)).boxes_orig.shape == (2000, 4)
print(len(store), resident() - before, resident())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel does not report resident memory")
def test_a_reader_of_all_of_coco_stays_small(tmp_path: Path) -> None:
    """118,000 images with 2,000 proposals (5 GB, all zeros in sparse files): 2,000 in turn and 20,000 at random."""
    from tests.data.builders import write_sparse_store

    write_sparse_store(tmp_path, 118_000, 2000)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path), "20000"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    images, grown, peak = map(float, done.stdout.split())
    print(f"grown by {grown:.0f} MiB to {peak:.0f} MiB")
    assert images == 118_000
    assert peak < 200 * 1e6 / 2**20, (grown, peak)


def test_two_commands_do_not_write_one_store(tmp_path):
    first = ShardWriter(tmp_path / "val")
    with pytest.raises(InputError, match=r"another process writes .*: wait for this process, or stop it first"):
        ShardWriter(tmp_path / "val")
    first.close()
    with pytest.raises(InputError, match="another process writes"):  # the store is not complete yet
        ShardWriter(tmp_path / "val")
    first.release()
    ShardWriter(tmp_path / "val").discard()
