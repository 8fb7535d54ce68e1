"""Download COCO: ``python -m fpn_lightning.data.download --root data/coco``.

Each archive is fetched to ``ROOT/archives``, checked by its SHA-256, unpacked in COCO's layout (``ROOT/train2017``,
``ROOT/annotations``) and deleted. To continue a stopped download, run the same command again. A ``.part`` file contains
the bytes of an archive that were already fetched. An archive is deleted only after all of its files are unpacked.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import http.client
import shutil
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from fpn_lightning.errors import InputError, complain
from fpn_lightning.text import replace_unprintable

COCO_URL = "http://images.cocodataset.org"
SPLITS = ("train", "val", "annotations", "test")
DEFAULT_SPLITS = SPLITS[:3]
RETRIES = 4  # number of retries after a connection that brings no new bytes; new bytes reset the count
TIMEOUT_S = 30.0
CHUNK_BYTES = 1 << 20
TEMPORARY_STATUS = {408, 425, 429, 500, 502, 503, 504}
AGAIN = "run the same command again"


@dataclass(frozen=True)
class Archive:
    """One of COCO's archives.

    Attributes:
        name: file name without ``.zip``.
        bytes: size of the archive.
        sha256: checksum of the archive.
        images: number of images in the archive; 0 if the archive contains annotations.
    """

    name: str
    bytes: int
    sha256: str
    images: int = 0

    def url(self, base_url: str) -> str:
        """Return the address of the archive on the server ``base_url``."""
        return f"{base_url}/{'zips' if self.images else 'annotations'}/{self.name}.zip"

    @property
    def unpacked_bytes(self) -> int:
        """Approximate size in bytes after unpacking.

        Zip compresses COCO's JSON files to about 0.3 of their size, but makes JPEG files hardly smaller.
        """
        return int(self.bytes * (1.05 if self.images else 4))

    def is_unpacked(self, root: Path) -> bool:
        """Return whether ``root`` has the archive's content.

        This content is all images, or, for an archive of annotations, those annotation files that this package reads.
        """
        if self.images:
            return sum(1 for _ in (root / self.name).glob("*.jpg")) == self.images
        parts = ("instances_train", "instances_val") if "trainval" in self.name else ("image_info_test",)
        return all((root / "annotations" / f"{part}{self.name[-4:]}.json").is_file() for part in parts)


# cocodataset.org publishes no checksums. These sizes and SHA-256 checksums come from TensorFlow Datasets.
ARCHIVES = (
    Archive("train2017", 19336861798, "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929", 118287),
    Archive("val2017", 815585330, "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05", 5000),
    Archive("test2017", 6646970404, "c7908c3c9f94ba2f3340ebbeec58c25db6be8774f18d68c2f15d0e369d95baba", 40670),
    Archive("train2014", 13510573713, "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775", 82783),
    Archive("val2014", 6645013297, "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0", 40504),
    Archive("test2014", 6660437059, "ead40c62230cb2cf70ff4c8b4c70abdc260a7556e77b3282621d06d8e2e35bdf", 40775),
    Archive("annotations_trainval2017", 252907541, "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268"),
    Archive("image_info_test2017", 1144034, "e52f412dd7195ac8f98d782b44c6dd30ea10241e9f42521f67610fbe055a74f8"),
    Archive("annotations_trainval2014", 252872794, "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009"),
    Archive("image_info_test2014", 763464, "7cecc66f6b09c1671c1896a1bcc1f35eb09b7fcf00a5c18420a5f0f5983dc8c9"),
)


def download_coco(
    root: Path, year: int = 2017, splits: Sequence[str] = DEFAULT_SPLITS, base_url: str = COCO_URL
) -> None:
    """Download COCO and unpack it into ``root``. Complete files are kept, and unfinished downloads are continued.

    Args:
        root: folder of the data set; created if missing. An archive that is already in ``root/archives`` is not
            downloaded again.
        year: 2017 or 2014.
        splits: any of ``train``, ``val``, ``annotations`` and ``test``. ``train`` and ``val`` download the images
            of the split, and one archive with the annotations of both splits. ``annotations`` downloads only this
            archive. ``test`` downloads the test images and their ``image_info`` files.
        base_url: address of COCO's server, or of a mirror with the same paths and archives.

    Raises:
        InputError: the download fails; the message says why and what to do.
    """
    if not base_url.startswith(("http://", "https://")):
        raise InputError(f"--base-url {base_url} is not an http or https address")
    folder = root / "archives"
    names = {f"{split}{year}" for split in splits} | {f"image_info_test{year}" for split in splits if split == "test"}
    names |= {f"annotations_trainval{year}" for split in splits if split != "test"}
    # Download the smallest archive first, so that errors appear early.
    archives = sorted((one for one in ARCHIVES if one.name in names), key=lambda archive: archive.bytes)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = {one: folder / f"{one.name}.zip" for one in archives}
        wanted = [one for one in archives if paths[one].exists() or not one.is_unpacked(root)]
        _check_space(root, [one for one in wanted if not paths[one].exists()])
        with Progress(TextColumn("{task.description}"), *columns, console=Console(stderr=True)) as bars:
            for archive in wanted:
                path, part = paths[archive], folder / f"{archive.name}.zip.part"
                if not path.exists():
                    fetch(archive.url(base_url.rstrip("/")), part, archive.bytes, bars)
                    part.replace(path)
                check(path, archive.sha256, bars)
                unpack(path, root, bars)
                path.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(f"{root}: the disk is full; free some space and {AGAIN}") from error
        raise InputError(
            f"{error.filename or root}: {error.strerror or error}; give a --root you can write to"
        ) from error


def fetch(url: str, part: Path, size: int, bars: Progress) -> None:
    """Download ``url`` until the file ``part`` has ``size`` bytes. Bytes that ``part`` already has are not fetched.

    Raises:
        InputError: the server cannot be reached, does not have the file, has a file of another size, or keeps closing
            the connection.
        OSError: ``part`` cannot be written.
    """
    with part.open("ab") as sink:
        bar = bars.add_task(f"fetch {part.stem}", total=size, completed=sink.tell())
        furthest, failures = sink.tell(), 0
        while sink.tell() < size:
            reason = _receive(url, sink, size, lambda: bars.update(bar, completed=sink.tell()))
            failures = 0 if sink.tell() > furthest else failures + 1
            furthest = max(furthest, sink.tell())
            if failures > RETRIES:
                raise InputError(f"{url}: cannot be fetched ({reason}). Check your network, then {AGAIN}")
            if sink.tell() < size:
                time.sleep(2**failures)


def _receive(url: str, sink: BinaryIO, size: int, report: Callable[[], None]) -> object:
    """Open one connection and append its bytes to ``sink``. Return why the connection ended, for an error message."""
    headers = {"Range": f"bytes={sink.tell()}-", "User-Agent": "fpn_lightning"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as answer:
            missing = size - (sink.tell() if answer.status == 206 else 0)
            if answer.length != missing:
                raise InputError(
                    f"{url}: the server offers {answer.length} bytes, but {missing} bytes of the archive are still "
                    "missing. The server may have another file at this address. Check your network and --base-url"
                )
            if answer.status != 206:  # a server that ignores the Range header sends the file from its start
                sink.seek(0)
                sink.truncate()
            while block := answer.read1(CHUNK_BYTES):
                sink.write(block)
                report()
    except urllib.error.HTTPError as error:
        if error.code not in TEMPORARY_STATUS:
            raise InputError(f"{url}: the server answered {error.code} {error.reason}; check --base-url") from error
        return error
    except (OSError, http.client.HTTPException) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        return getattr(error, "reason", error)
    return "the connection closed too early"


def check(path: Path, sha256: str, bars: Progress) -> None:
    """Check the SHA-256 of an archive; raise InputError if it is wrong."""
    with bars.open(path, "rb", description=f"check {path.name}") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    if actual != sha256:
        raise InputError(
            f"{path}: its SHA-256 is {actual}, but COCO's archive has {sha256}; delete the file and {AGAIN}"
        )


def unpack(path: Path, root: Path, bars: Progress) -> None:
    """Unpack a checked archive into ``root``; existing files of the right size are kept.

    Raises:
        InputError: an existing file has another size than the file in the archive.
        OSError: a file cannot be written.
    """
    temporary = path.with_name(f"{path.name}.member")
    with zipfile.ZipFile(path) as bundle:
        members = [member for member in bundle.infolist() if not member.is_dir()]
        bar = bars.add_task(f"unpack {path.name}", total=sum(member.file_size for member in members))
        for member in members:
            target = root / member.filename
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                with bundle.open(member) as source, temporary.open("wb") as sink:
                    shutil.copyfileobj(source, sink, CHUNK_BYTES)
                temporary.replace(target)
            elif target.stat().st_size != member.file_size:
                raise InputError(f"{target} differs from the file in {path.name}; move your file away and {AGAIN}")
            bars.advance(bar, member.file_size)
    temporary.unlink(missing_ok=True)


def _check_space(root: Path, archives: list[Archive]) -> None:
    """Check that the disk has space for all unpacked files and for the largest archive.

    Each archive is deleted before the next archive is downloaded.
    """
    parts = [root / "archives" / f"{archive.name}.zip.part" for archive in archives]
    needed = sum(archive.unpacked_bytes for archive in archives) + max((one.bytes for one in archives), default=0)
    needed -= sum(part.stat().st_size for part in parts if part.exists())
    free = shutil.disk_usage(root).free
    if needed > free:
        names = ", ".join(f"{archive.name}.zip" for archive in archives)
        raise InputError(
            f"{root}: {names} need about {needed:,} bytes, but only {free:,} bytes are free; free some space or give "
            "fewer --splits"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Return 0 if the download is complete, 2 after an error, and 130 after Ctrl-C."""
    parser = argparse.ArgumentParser("python -m fpn_lightning.data.download", description="Fetch and unpack COCO.")
    add = parser.add_argument
    add("--root", type=Path, required=True, help="folder of the data set")
    add("--year", type=int, choices=(2017, 2014), default=2017)
    add("--splits", nargs="+", choices=SPLITS, default=DEFAULT_SPLITS, help="default: %(default)s")
    add("--base-url", default=COCO_URL, help="mirror with the same paths and archives (default: %(default)s)")
    replace_unprintable()
    try:
        download_coco(**vars(parser.parse_args(arguments)))
    except InputError as error:
        return complain(error)
    except KeyboardInterrupt:
        print(f"stopped; {AGAIN}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
