"""The run record ``metrics.json``: what one finished run leaves behind, and all that tables are made from."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import ConfigDict, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from fpn_lightning.errors import InputError, first_error
from fpn_lightning.files import write_whole

SCHEMA = 2
MAX_BYTES = 50_000
FINISHED = "finished"
_MAX_CURVE_POINTS = 512
_FRACTION_KEY = re.compile(r"(?:[a-z]\w*_)?A[PR](?:\d+k?)?(?:_?[sml])?")
_SLUG = re.compile(r"[\w+-][\w.+-]*(?:/[\w+-][\w.+-]*)*")
# Strict: JSON's "3" is no number. Unknown keys are refused, so that a misspelt one cannot pass for a missing one.
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

Metrics = dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Which cell of which table: ``table`` (``table1``), ``row`` (``c_fpn``), ``preset`` (``mini``), ``seed``."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    table: str
    row: str
    preset: str
    seed: NonNegativeInt

    @property
    def path(self) -> Path:
        """Relative folder of the run: ``<preset>/<table>/<row>/seed<n>``."""
        return Path(self.preset) / self.table / self.row / f"seed{self.seed}"

    def __str__(self) -> str:
        return f"{self.preset}/{self.table}/{self.row} seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Data:
    """The data set.

    Attributes:
        name: ``coco``, ``synthetic``, ...
        split: the split evaluated on, ``val2017``.
        fingerprint: a digest of the data; equal data gives equal digests.
        num_images: images in that split.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    split: str
    fingerprint: str
    num_images: NonNegativeInt


@dataclass(frozen=True, kw_only=True)
class Train:
    """The last training stage.

    Attributes:
        steps: optimiser steps.
        total_batch: images per optimiser step, over all devices and accumulation steps.
        num_images: images of the training split.
        seconds_per_step: wall-clock time.
        lr: learning rate after warm-up, as used (rescaled where the total batch is not the reference's).
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    steps: NonNegativeInt
    total_batch: PositiveInt
    num_images: NonNegativeInt | None = None
    seconds_per_step: float | None = None
    lr: float | None = None


@dataclass(frozen=True, kw_only=True)
class Eval:
    """The final evaluation: wall-clock seconds per image of the split, all processes together."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    seconds_per_image: float | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one run measured, on what, with what.

    Attributes:
        experiment: the cell of the tables.
        status: ``"finished"``, or anything else for a run that is not to be reported.
        metrics: AP and AR as fractions in [0, 1], ``None`` for a size class without ground truth; losses too.
        area_thresholds: the two areas (px²) between small, medium and large.
        data: the data set.
        train: schedule and training speed.
        eval: evaluation speed.
        peak_memory_mib: peak device memory, or resident memory on a CPU, in MiB.
        parameters: number of parameters of the model.
        hardware: in words.
        versions: package name to version.
        commit: of this repository.
        config_sha256: digest of the resolved config without paths, machine and logging. In ``schema`` 1 the seed was
            part of it and class paths were not.
        trunk: torchvision's name of the bottom-up network, or the class name of another one.
        parents: records or checkpoints the run was built from.
        curves: by name, points (step, value); thinned when the file would grow beyond 50 kB.
        untrained: metrics of the model before training, where they were measured.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    experiment: Experiment
    status: str
    metrics: Metrics
    area_thresholds: tuple[float, float]
    data: Data
    train: Train
    eval: Eval
    peak_memory_mib: float | None
    parameters: NonNegativeInt
    hardware: str
    versions: dict[str, str]
    commit: str
    config_sha256: str
    trunk: str = ""
    parents: list[str] = field(default_factory=list)
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    untrained: Metrics | None = None
    schema: Literal[1, 2] = 2

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a record.

        Raises:
            InputError: not readable, not JSON, of a later schema, or a key is unknown, missing or out of range; names
                the file and the key.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            content: Any = json.loads(text)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read as a run record: {error}") from error
        if not isinstance(content, dict) or "schema" not in content:
            raise InputError(f"{path}: schema: the key is missing, so this is no run record")
        schema = content["schema"]
        if isinstance(schema, int) and schema > SCHEMA:
            raise InputError(f"{path}: schema: {schema} is later than {SCHEMA}; update fpn_lightning to read it")
        return cls._from_json(text, str(path))

    @classmethod
    def _from_json(cls, text: str, source: str) -> Self:
        try:
            record = TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            raise InputError(f"{source}: {first_error(error)}") from error
        for part in ("table", "row", "preset"):
            if not _SLUG.fullmatch(getattr(record.experiment, part)):
                value = getattr(record.experiment, part)
                raise InputError(f"{source}: experiment.{part}: {value!r} cannot be a folder name")
        for block in ("metrics", "untrained"):
            for key, value in (getattr(record, block) or {}).items():
                if value is not None and _FRACTION_KEY.fullmatch(key) and not 0 <= value <= 1:
                    raise InputError(f"{source}: {block}.{key}: {value} is not a fraction in [0, 1]")
        return record

    def save(self, path: str | Path) -> None:
        """Write the record, whole or not at all, in at most 50 kB; curves are thinned until it fits.

        Raises:
            InputError: a value that :meth:`load` would refuse, or more than 50 kB without the curves.
        """
        path = Path(path)
        try:
            text = self._to_json(_MAX_CURVE_POINTS)
        except TypeError as error:
            raise InputError(f"{path}: a value of the record is no JSON: {error}") from error
        self._from_json(text, str(path))
        points = _MAX_CURVE_POINTS
        while len(text.encode()) > MAX_BYTES:
            if points <= 2:
                raise InputError(f"{path}: the record is larger than {MAX_BYTES} bytes; log fewer curves or metrics")
            points //= 2
            text = self._to_json(points)
        write_whole(path, text)

    def _to_json(self, max_points: int) -> str:
        """One line for each top-level key, which keeps differences between records readable."""
        curves = {name: _thin(points, max_points) for name, points in self.curves.items()}
        content = asdict(replace(self, curves=curves))
        content = {"schema": content.pop("schema"), **content}
        if content["untrained"] is None:
            del content["untrained"]
        lines = (f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in content.items())
        return "{\n" + ",\n".join(lines) + "\n}\n"


def _thin(points: list[tuple[int, float]], max_points: int) -> list[tuple[int, float]]:
    """At most ``max_points`` of ``points``, evenly spread, first and last kept."""
    if len(points) <= max_points:
        return points
    last = len(points) - 1
    return [points[round(index * last / (max_points - 1))] for index in range(max_points)]
