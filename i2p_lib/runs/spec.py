"""The description of one named run: what may be set, within which limits, and its defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from i2p_lib.data import dataset_card, dataset_hash
from i2p_lib.data.scenes import scene_card, scene_hash
from i2p_lib.runs.named import Named, WeightsName
from i2p_lib.train.settings import ClassifySettings, SegmentSettings, explain


def _to_spec(value: Any) -> Any:
    """A mapping becomes a spec, so that YAML and JSON can write a teacher."""
    return RunSpec(**value) if isinstance(value, dict) else value


class RunSpec(ClassifySettings, Named):
    """Everything that decides the result of one classification run (device and paths do not).

    Beside the settings of training (`ClassifySettings`) and of the network (`Named`):

    data                       name of the clouds, see `dataset_names`
    recipe                     "paper": the strides and stem of the paper's networks, see `inflate`
    points                     points used of each cloud
    shots, episode             clouds per class, and which draw of them; both or neither.
                               Few-shot runs, whose epochs are many and short, are validated after
                               the last one
    teacher                    another run: the student starts from its network and learns from
                               its answers instead of labels, see `distillation_loss`

    >>> RunSpec(regime="io+bn", lr=0.003).label()
    'efficientnet_lite0 imagenet1k io+bn on home_objects, 10 epochs, seed 0'
    """

    TASK: ClassVar[str] = "i2p_lib.train.classify"
    DATA: ClassVar[str] = "data"

    data: str = "home_objects"
    model: str = "efficientnet_lite0"
    weights: WeightsName = "imagenet1k"
    recipe: Literal["paper"] | None = None
    points: int = Field(2048, ge=1)
    shots: int | None = Field(None, ge=1)
    episode: int | None = Field(None, ge=0)
    teacher: Annotated[RunSpec | None, BeforeValidator(_to_spec)] = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.shots is None) != (self.episode is None):
            raise ValueError("shots and episode belong together: set both (few-shot) or neither")
        if self.shots is not None and self.train_limit is not None:
            raise ValueError("shots already limits the training set: leave train_limit out")
        if (self.teacher is None) != (self.distill is None):
            raise ValueError("teacher and distill belong together: set both or neither")
        if self.teacher is None:
            return self
        same = ("data", "model", "weights", "weights_except", "recipe", "axis", "normalize", "init")
        other = [name for name in same if getattr(self, name) != getattr(self.teacher, name)]
        if other:
            raise ValueError(f"a student has its teacher's network; they differ in {other}")
        if self.regime != "all" or self.shots is not None or self.label_smoothing:
            raise ValueError(
                "a student trains all layers on all clouds without labels: regime all, no shots, "
                "no label_smoothing"
            )
        return self

    def validated(self, epoch: int) -> bool:
        """Tell whether scores are measured after an epoch; few-shot: after the last one."""
        few = self.shots is not None and self.rules.validate_on == "val"
        return epoch == self.epochs if few else super().validated(epoch)

    def data_digest(self) -> str:
        """Return what identifies the clouds' content and how they stand."""
        return f"{dataset_hash(self.data)} {dataset_card(self.data).up} up"

    def row(self) -> dict[str, Any]:
        """Return the settings as one flat table row."""
        return super().row() | {
            "augment": self.augment_name(),
            "probe_epochs": ",".join(map(str, self.probe_epochs)),
            "teacher": self.teacher.label() if self.teacher else None,
        }

    def _extra(self) -> str:
        if self.distill:
            heat = "" if self.temperature is None else f" at T = {self.temperature:g}"
            return f", {self.distill} distillation{heat} from {self.teacher.shots or 'all'} shots"
        return "" if self.shots is None else f" {self.shots}-shot (episode {self.episode})"


OWN = {
    "unet": ("voxel_size", "decoder_width"),
    "pointnet2_ssg": ("block_size", "block_points", "blocks"),
    "range": ("height", "width", "back_projection"),
}
"""Family of segmentation networks -> the settings that it alone reads."""


class SegmentSpec(SegmentSettings, Named):
    """Everything that decides the result of one segmentation run (device and paths do not).

    Beside the settings of training (`SegmentSettings`) and of the network (`Named`):

    scenes                     name of the labelled scenes, see `scene_names`
    model                      "unet:NAME" (an inflated image network on voxels), "pointnet2_ssg"
                               (points) or "range:NAME" (an image network on range images)
    protocol                   as in `RunSpec`; what it decides about scenes is read by U-Nets alone
    voxel_size                 of a U-Net: edge of a voxel in metres
    decoder_width              of a U-Net: factor on the paper's channels of stem and decoder
    block_size, block_points   of PointNet++: edge of a block in metres, points drawn of each
    blocks                     of PointNet++: random blocks of each scene in one step
    height, width              of a range network: pixels of the image
    back_projection            of a range network: "knn" or "pixel"
                               (None: the default of `encoding_for` or `segmenter`)

    >>> SegmentSpec(weights="imagenet1k").label()
    'unet:resnet18 imagenet1k all on simulated_rooms, 10 epochs, seed 0'
    """

    TASK: ClassVar[str] = "i2p_lib.train.segment"
    DATA: ClassVar[str] = "scenes"
    teacher: ClassVar[None] = None

    scenes: str = "simulated_rooms"
    model: str = Field("unet:resnet18", pattern=r"^(unet:\w+|range:\w+|pointnet2_ssg)$")
    weights: WeightsName = "random"
    voxel_size: float | None = Field(None, gt=0, le=1)
    decoder_width: float | None = Field(None, gt=0, le=4)
    block_size: float | None = Field(None, gt=0, le=100)
    block_points: int | None = Field(None, ge=16, le=100_000)
    blocks: int | None = Field(None, ge=1, le=1000)
    height: int | None = Field(None, ge=8, le=256)
    width: int | None = Field(None, ge=32, le=8192)
    back_projection: Literal["knn", "pixel"] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for family, names in OWN.items():
            if family != self.family and (odd := self._set(*names)):
                raise ValueError(f"{', '.join(odd)} belongs to {family}, not to {self.model}")
        if self.family != "unet" and (self.axis != "z" or not self.normalize):
            raise ValueError(f"axis and normalize are read by unet alone, not by {self.model}")
        return self

    @property
    def family(self) -> str:
        """The kind of network: a key of `OWN`."""
        return self.model.partition(":")[0]

    @property
    def inflated(self) -> bool:
        """Whether the encoder is an inflated image network."""
        return self.family == "unet"

    @property
    def image_model(self) -> str:
        """The image network within, or the network on points."""
        return self.model.partition(":")[2] or self.model

    @property
    def encoding_settings(self) -> dict[str, Any]:
        """What the spec sets of its encoding."""
        return self._set(*(name for name in OWN[self.family] if name != "decoder_width"))

    @property
    def network_settings(self) -> dict[str, Any]:
        """What the spec sets of its network; the inflation of a U-Net's encoder is part of it."""
        inflation = ("axis", "normalize", *(("weights_except",) if self.weights_except else ()))
        return self._set("decoder_width", *inflation) if self.inflated else {}

    def _set(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def data_digest(self) -> str:
        """Return what identifies the scenes' content and their treatment."""
        return f"{scene_hash(self.scenes)} {scene_card(self.scenes).treatment}"

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules on whose import closure the run's result rests, see `Named`."""
        return (*super().modules, scene_card(self.scenes).reader.__name__)


AnySpec = RunSpec | SegmentSpec


def kind_of(settings: Mapping[str, Any]) -> type[AnySpec]:
    """Return the kind of run that settings describe: those with `scenes` segment them."""
    return SegmentSpec if "scenes" in settings else RunSpec


def spec_from(settings: Mapping[str, Any], where: str) -> AnySpec:
    """Build a spec; ValueError says `where` (a file, an experiment) and each wrong setting."""
    try:
        return kind_of(settings)(**settings)
    except ValidationError as error:
        raise ValueError(f"{where}: {explain(error)}") from error
