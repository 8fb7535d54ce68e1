"""The run record ``metrics.json``: how a run ended and what it measured. Tables contain finished runs only."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AliasChoices, ConfigDict, Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from fpn_lightning.errors import InputError, first_error
from fpn_lightning.files import write_whole
from fpn_lightning.metric_names import is_fraction
from fpn_lightning.text import is_folder_name

SCHEMA = 3
MAX_BYTES = 50_000
FINISHED = "finished"
STOPPED_EARLY = "stopped_early"
OUT_OF_TIME = "out_of_time"
PARTIAL = "partial"
_MAX_CURVE_POINTS = 512
# Strict validation rejects the string "3" as a number. An unknown key is an error, because the key may be misspelt.
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

Metrics = dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Identifies a run, for example by table ``table1``, row ``c_fpn``, preset ``mini`` and seed 0."""

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
        split: name of the evaluation split, for example ``val2017``.
        fingerprint: digest of the data; equal data has equal digests.
        num_images: number of images in the evaluation split.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    split: str
    fingerprint: str
    num_images: NonNegativeInt


@dataclass(frozen=True, kw_only=True)
class Train:
    """The schedule and speed of the run's training. Earlier runs that provided initial weights are not included.

    Attributes:
        steps: number of optimiser steps.
        total_batch: images per optimiser step, over all devices and accumulation steps.
        num_images: number of images in the training split.
        seconds_per_step: wall-clock time of one optimiser step, s.
        lr: learning rate after warm-up, rescaled for the total batch.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    steps: NonNegativeInt
    total_batch: PositiveInt
    num_images: NonNegativeInt | None = None
    seconds_per_step: float | None = None
    lr: float | None = None


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Speed of the final evaluation: wall-clock time divided by the number of images, over all processes, s."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    seconds_per_image: float | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """Results of one run, and the data, code and machine that produced them.

    Attributes:
        experiment: table, row, preset and seed.
        status: ``finished`` if all steps were taken and the whole split was evaluated. Tables leave out runs with
            another status. ``out_of_time`` means that ``trainer.max_time`` ended training, ``stopped_early`` that
            training ended early for another reason, and ``partial`` that only a part of the split was evaluated.
        metrics: AP and AR as fractions in [0, 1] (``None`` for an object size without ground truth), and losses.
        area_thresholds: the two areas (px²) that separate small, medium and large objects.
        data: the data set.
        train: schedule and training speed.
        eval: evaluation speed.
        peak_memory_mib: peak memory of the device, or on a CPU peak resident memory of the process, in MiB.
        parameters: number of parameters of the model.
        hardware: description of the machine.
        versions: version of each package, by the name of the package.
        commit: commit of this repository.
        config_sha256: digest of the resolved config without the keys for seed, names, paths, machine and logging. In
            records of ``schema`` 1, the digest includes the seed, but not the values of ``class_path`` keys.
        backbone: name of the backbone, for example ``resnet50``, or its class name if it has no name. Records of
            ``schema`` 1 and 2 call this key ``trunk``.
        parents: checkpoints that gave the initial weights or made the proposals, each with its SHA-256.
        curves: for each curve name, a list of (step, value) points. A curve keeps at most 512 points, and fewer if the
            file would exceed 50 kB.
        untrained: metrics of the model before training, if they were measured.
        per_class: AP of each category by its name, best first; left out if the file would exceed 50 kB.
        reason: why the status is not ``finished``.
        schema: version of the format.
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
    backbone: Annotated[str, Field(validation_alias=AliasChoices("backbone", "trunk"))] = ""
    parents: list[str] = field(default_factory=list)
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    untrained: Metrics | None = None
    per_class: Metrics | None = None
    reason: str | None = None
    schema: Literal[1, 2, 3] = 3

    @property
    def outcome(self) -> str:
        """Return the status, with the reason if it is not ``finished``."""
        return self.status if self.reason is None else f"{self.status}: {self.reason}"

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a record.

        Raises:
            InputError: if the file cannot be read, is not JSON or has a later schema, or if a key is unknown, missing
                or out of range. The message names the file and the key.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            content: Any = json.loads(text)
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path} cannot be read as a run record: {error}") from error
        if not isinstance(content, dict) or "schema" not in content:
            raise InputError(f"{path}: schema: the key is missing, so this is not a run record")
        schema = content["schema"]
        if isinstance(schema, int) and schema > SCHEMA:
            raise InputError(f"{path}: schema: {schema} is later than {SCHEMA}. Update fpn_lightning to read the file.")
        return cls._from_json(text, str(path))

    @classmethod
    def _from_json(cls, text: str, source: str) -> Self:
        try:
            record = TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            raise InputError(f"{source}: {first_error(error)}") from error
        for part in ("table", "row", "preset"):
            if not is_folder_name(getattr(record.experiment, part)):
                value = getattr(record.experiment, part)
                raise InputError(f"{source}: experiment.{part}: {value!r} cannot be a folder name")
        for block in ("metrics", "untrained", "per_class"):
            for key, value in (getattr(record, block) or {}).items():
                if value is not None and is_fraction(key) and not 0 <= value <= 1:
                    raise InputError(f"{source}: {block}.{key}: {value} is not a fraction in [0, 1]")
        return record

    def save(self, path: str | Path) -> None:
        """Write the record completely or not at all, in at most 50 kB.

        If the file would be larger than 50 kB, points of curves are left out first, and then ``per_class``.

        Raises:
            InputError: if :meth:`load` would reject a value, or if the record is too large even without ``per_class``.
        """
        path = Path(path)
        try:
            text = self._to_json(_MAX_CURVE_POINTS)
        except TypeError as error:
            raise InputError(f"{path}: a value of the record cannot be written as JSON: {error}") from error
        self._from_json(text, str(path))
        record, points = self, _MAX_CURVE_POINTS
        while len(text.encode()) > MAX_BYTES:
            if points > 2:
                points //= 2
            elif record.per_class is not None:
                record = replace(record, per_class=None)
            else:
                raise InputError(f"{path}: the record is larger than {MAX_BYTES} bytes; log fewer curves or metrics")
            text = record._to_json(points)
        write_whole(path, text)

    def _to_json(self, max_points: int) -> str:
        """Return the record as JSON with one line per top-level key, so that a diff of two records is readable."""
        curves = {name: _thin(points, max_points) for name, points in self.curves.items()}
        content = asdict(replace(self, curves=curves))
        content = {"schema": content.pop("schema"), **content}
        for key in ("untrained", "per_class", "reason"):
            if content[key] is None:
                del content[key]
        if self.schema < 3:  # records of schema 1 and 2 call ``backbone`` by its old name
            content = {"trunk" if key == "backbone" else key: value for key, value in content.items()}
        lines = (f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in content.items())
        return "{\n" + ",\n".join(lines) + "\n}\n"


def _thin(points: list[tuple[int, float]], max_points: int) -> list[tuple[int, float]]:
    """Return at most ``max_points`` evenly spaced items of ``points``, including the first and the last."""
    if len(points) <= max_points:
        return points
    last = len(points) - 1
    return [points[round(index * last / (max_points - 1))] for index in range(max_points)]
