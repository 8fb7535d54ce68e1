"""COCO from its server to disk: ``python -m fpn_lightning.data.download --root DIR``.

Archives go to ``DIR/archives`` and are deleted when unpacked; one put there by hand is used like a fetched one. Each
unpacked archive leaves the list of its files in ``DIR/.complete``. The same command continues a run that was stopped.
"""

from __future__ import annotations

import argparse
import errno
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from fpn_lightning.data.download_archives import (
    ARCHIVES,
    COCO_URL,
    Archive,
    ArchiveError,
    check_checksum,
    file_names,
    is_unpacked,
    read_checksums,
    unpack,
    write_list,
)
from fpn_lightning.data.download_http import RETRIES, announced_bytes, fetch, only_one, part_path
from fpn_lightning.errors import InputError

SPLITS = ("train", "val", "annotations", "test")
DEFAULT_SPLITS = SPLITS[:3]


def archives_of(year: int, splits: Sequence[str]) -> list[Archive]:
    """The archives that ``splits`` of ``year`` need, smallest first, so that a mistake shows early.

    Raises:
        InputError: there is no such year or split.
    """
    names = set()
    for split in splits:
        names.add(f"image_info_test{year}.zip" if split == "test" else f"annotations_trainval{year}.zip")
        if split != "annotations":
            names.add(f"{split}{year}.zip")
    if not names or not names <= ARCHIVES.keys():
        raise InputError(f"year {year}, splits {list(splits)}: the years are 2017 and 2014, the splits {list(SPLITS)}")
    return sorted((ARCHIVES[name] for name in names), key=lambda archive: archive.bytes)


@dataclass(frozen=True)
class _Download:
    """One run of :func:`download_coco`, whose arguments it holds."""

    root: Path
    base_url: str
    pinned: Mapping[str, str]
    keep_archives: bool
    retries: int
    bars: Progress

    def run(self, archives: list[Archive]) -> None:
        missing = []
        for archive in archives:
            unpacked = is_unpacked(self.root, self.listing(archive))
            if not unpacked and self.path(archive).exists():
                self.finish(archive)
            elif unpacked or self.is_unpacked_by_hand(archive):
                self.say(f"{archive.name}: already unpacked in {self.root / archive.folder}")
            else:
                missing.append(archive)
        self.check_space(missing)
        for archive in missing:
            url = archive.url(self.base_url)
            self.say(f"{archive.name}: fetching {url}")
            self.path(archive).parent.mkdir(exist_ok=True)
            fetch(url, self.path(archive), self.retries, self.bar(f"fetch {archive.name}"))
            self.finish(archive)
        if (self.root / "archives").is_dir() and not file_names(self.root / "archives"):
            (self.root / "archives").rmdir()

    def path(self, archive: Archive) -> Path:
        return self.root / "archives" / archive.name

    def listing(self, archive: Archive) -> Path:
        return self.root / ".complete" / f"{archive.name}.txt"

    def is_unpacked_by_hand(self, archive: Archive) -> bool:
        if archive.images is None:  # nothing says whether an annotation file is whole; fetching tells
            return False
        return sum(name.endswith(".jpg") for name in file_names(self.root / archive.folder)) == archive.images

    def check_space(self, archives: list[Archive]) -> None:
        peak = used = 0
        for archive in archives:
            url = archive.url(self.base_url)
            size = announced_bytes(url, self.retries)
            if self.base_url == COCO_URL and archive.name not in self.pinned and size not in (None, archive.bytes):
                raise InputError(
                    f"{url}: the server announces {size:,} bytes, COCO's archive has {archive.bytes:,}; is something "
                    "answering in its place? If COCO changed the archive, give its checksum with --checksums"
                )
            size = archive.bytes if size is None else size
            part = part_path(self.path(archive))
            used += max(size - (part.stat().st_size if part.exists() else 0), 0)
            unpacked = int(size * archive.unpacked_factor)
            peak = max(peak, used + unpacked)
            used += unpacked - (0 if self.keep_archives else size)
        free = shutil.disk_usage(self.root).free
        if peak > free:
            raise InputError(
                f"{self.root}: fetching and unpacking {', '.join(archive.name for archive in archives)} needs "
                f"{peak:,} bytes and {free:,} are available; free some space or ask for fewer --splits"
            )

    def finish(self, archive: Archive) -> None:
        path = self.path(archive)
        official = self.base_url == COCO_URL or path.stat().st_size == archive.bytes
        expected = self.pinned.get(archive.name) or (archive.sha256 if official else None)
        try:
            if expected:
                check_checksum(path, expected, self.bar(f"check {archive.name}"))
            names = unpack(path, self.root, archive.folder, self.bar(f"unpack {archive.name}"))
        except ArchiveError as error:
            broken = path.with_name(f"{path.name}.broken")
            path.replace(broken)
            raise InputError(
                f"{error}. The archive is now {broken}: delete it, and the next run fetches a new one"
            ) from error
        write_list(self.listing(archive), names)
        if not self.keep_archives:
            path.unlink()

    def say(self, text: str) -> None:
        self.bars.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def bar(self, text: str) -> Callable[[int, int | None], None]:
        task: list[TaskID] = []

        def show(done: int, total: int | None) -> None:
            if task:
                self.bars.update(task[0], completed=done, total=total)
            else:  # what was already there must not count as speed
                task.append(self.bars.add_task(text, completed=done, total=total))

        return show


def download_coco(
    root: str | Path,
    year: int = 2017,
    splits: Sequence[str] = DEFAULT_SPLITS,
    base_url: str = COCO_URL,
    checksums: str | Path | None = None,
    keep_archives: bool = False,
    retries: int = RETRIES,
) -> None:
    """Fetch COCO and unpack it in COCO's layout, such as ``root/train2017`` and ``root/annotations``.

    What is complete is left alone; what is not is continued. The SHA-256 is compared where ``checksums`` has one, for
    COCO's own server, and for archives of the original's size; the CRC-32 of every unpacked file always.

    Args:
        root: folder of the data set; made if missing.
        year: 2017 or 2014.
        splits: of ``train`` and ``val`` (images, and the annotations of both), ``annotations`` (these alone) and
            ``test`` (images and their ``image_info`` files).
        base_url: ``http`` or ``https`` address of COCO's server or of a mirror with the same paths.
        checksums: file in the form of ``sha256sum`` or ``md5sum``; goes before the built-in checksums.
        keep_archives: leave the archives in ``root/archives``.
        retries: further attempts after a failure of the network, 1, 2, 4 … seconds apart.

    Raises:
        InputError: it cannot be done; the message says why and gives the command that continues.
    """
    root, base_url = Path(root), base_url.rstrip("/")
    archives = archives_of(year, splits)
    address = urlsplit(base_url)
    if address.scheme not in ("http", "https") or not address.netloc or re.search(r"\s", base_url):
        raise InputError(f"--base-url {base_url}: not an http or https address")
    pinned = read_checksums(Path(checksums)) if checksums else {}
    words = ["python", "-m", "fpn_lightning.data.download", "--root", str(root), "--year", str(year)]
    words += ["--splits", *splits] + (["--base-url", base_url] if base_url != COCO_URL else [])
    words += (["--checksums", str(checksums)] if checksums else []) + ["--keep-archives"] * keep_archives
    to_continue = f"\nTo continue: {shlex.join(words)}"
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    try:
        root.mkdir(parents=True, exist_ok=True)
        with only_one(root), Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
            _Download(root, base_url, pinned, keep_archives, retries, bars).run(archives)
    except InputError as error:
        raise InputError(f"{error}{to_continue}") from error
    except OSError as error:
        reason = f"{error.filename or root}: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = f"{root}: the disk is full; free some space. What has arrived is kept"
        raise InputError(f"{reason}{to_continue}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0: complete, 1: it could not be done, 2: bad options, 130: interrupted."""
    parser = argparse.ArgumentParser("python -m fpn_lightning.data.download", description="Fetch and unpack COCO.")
    add = parser.add_argument
    add("--root", type=Path, required=True, help="folder of the data set")
    add("--year", type=int, choices=(2017, 2014), default=2017)
    add("--splits", nargs="+", choices=SPLITS, default=DEFAULT_SPLITS, help="default: %(default)s")
    add("--base-url", default=COCO_URL, help="mirror with the same paths (default: %(default)s)")
    add("--checksums", type=Path, help="checksums of your own, as sha256sum or md5sum writes them")
    add("--keep-archives", action="store_true", help="leave the archives in ROOT/archives after unpacking")
    add("--retries", type=int, default=RETRIES, help="attempts after a network failure (default: %(default)s)")
    try:
        download_coco(**vars(parser.parse_args(arguments)))
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
