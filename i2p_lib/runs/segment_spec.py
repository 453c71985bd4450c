"""The description of one segmentation run: what may be set, within which limits, its defaults."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from i2p_lib.train.protocol import Spec

ENCODING = {
    "unet": ("voxel_size",),
    "pointnet2_ssg": ("block_size", "block_points", "blocks"),
    "range": ("height", "width", "back_projection"),
}
"""Family of networks -> the settings of its encoding (`encoding_for`)."""
NETWORK = {"unet": ("decoder_width", "point_branch"), "pointnet2_ssg": (), "range": ()}
"""Family of networks -> the settings of the network itself (`segmenter`)."""


class SegmentSpec(Spec):
    """Everything that decides the result of one segmentation run (device and paths do not).

    scenes                     name of the labelled scenes, see `scene_names`
    model, weights             "unet:NAME" (an inflated image network on voxels), "pointnet2_ssg"
                               (points) or "range:NAME" (an image network on range images), and
                               their image weights; "random": none
    regime, protocol           as in `RunSpec`; a voxel always has the mean of its points
    axis, normalize            how the weights of a U-Net's encoder are inflated, see `inflate`
    voxel_size                 of a U-Net: edge of a voxel in metres
    decoder_width              of a U-Net: factor on the paper's channels of stem and decoder
    point_branch               of a U-Net: whether it has SPVCNN's branch of points
    block_size, block_points   of PointNet++: edge of a block in metres, points drawn of each
    blocks                     of PointNet++: random blocks of each scene in one step
    height, width              of a range network: pixels of the image
    back_projection            of a range network: "knn" or "pixel"
                               (None: the default of `encoding_for` or `segmenter`)
    batch_size                 scenes of one step
    nesterov                   SGD's momentum of 0.9 looks ahead; read by sgd alone
    schedule                   one_cycle and cosine as in `RunSpec`; poly: (1 - t) ** 0.9;
                               warmup_cosine: `warmup_steps` steps up, then a cosine down
    warmup                     share of steps in which one_cycle rises
    augment                    "paper": the transforms of the paper's recipe for such scenes
    validate_every             epochs between two measurements; the last one is always measured
    train_limit, test_limit    at most so many scenes to train on, and to measure on

    >>> SegmentSpec(weights="imagenet1k").label()
    'unet:resnet18 imagenet1k all on simulated_rooms, 10 epochs, seed 0'
    """

    teacher: ClassVar[None] = None

    scenes: str = "simulated_rooms"
    model: str = Field("unet:resnet18", pattern=r"^(unet:\w+|range:\w+|pointnet2_ssg)$")
    weights: str = "random"
    regime: Literal["io", "io+ms", "io+bn", "all"] = "all"
    axis: Literal["x", "y", "z"] = "z"
    normalize: bool = True
    protocol: Literal["clean", "released", "tuning"] = "clean"
    voxel_size: float | None = Field(None, gt=0, le=1)
    decoder_width: float | None = Field(None, gt=0, le=4)
    point_branch: bool | None = None
    block_size: float | None = Field(None, gt=0, le=100)
    block_points: int | None = Field(None, ge=16, le=100_000)
    blocks: int | None = Field(None, ge=1, le=1000)
    height: int | None = Field(None, ge=8, le=256)
    width: int | None = Field(None, ge=32, le=8192)
    back_projection: Literal["knn", "pixel"] | None = None
    epochs: int = Field(10, ge=1, le=10_000)
    batch_size: int = Field(1, ge=1, le=256)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    nesterov: bool = False
    lr: float = Field(1e-3, gt=0, le=10)
    weight_decay: float = Field(1e-2, ge=0, le=1)
    schedule: Literal["one_cycle", "cosine", "poly", "warmup_cosine"] = "one_cycle"
    warmup: float = Field(0.3, ge=0, lt=1)
    warmup_steps: int = Field(0, ge=0)
    augment: Literal["none", "paper"] = "paper"
    validate_every: int = Field(1, ge=1)
    train_limit: int | None = Field(None, ge=1)
    test_limit: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _fits_together(self) -> SegmentSpec:
        for family in ENCODING.keys() - {self.family}:
            odd = [*self._set(ENCODING[family]), *self._set(NETWORK[family])]
            if odd:
                raise ValueError(f"{', '.join(odd)} belongs to {family}, not to {self.model}")
        if self.family != "unet" and (self.axis != "z" or not self.normalize):
            raise ValueError(f"axis and normalize are read by unet alone, not by {self.model}")
        if self.nesterov and self.optimizer != "sgd":
            raise ValueError(f"nesterov is read by sgd alone, not by {self.optimizer}")
        if self.schedule != "one_cycle" and self.warmup != 0.3:
            raise ValueError(f"warmup is read by the one_cycle schedule only, not {self.schedule}")
        if (self.warmup_steps > 0) != (self.schedule == "warmup_cosine"):
            raise ValueError("warmup_steps belongs to the schedule warmup_cosine: set both")
        return self

    @property
    def family(self) -> str:
        """The kind of network: a key of `ENCODING`."""
        return self.model.partition(":")[0]

    @property
    def image_model(self) -> str:
        """The model under whose name the weights are carded."""
        return self.model.partition(":")[2] or self.model

    @property
    def encoding_settings(self) -> dict[str, Any]:
        """What the spec sets of its encoding."""
        return self._set(ENCODING[self.family])

    @property
    def network_settings(self) -> dict[str, Any]:
        """What the spec sets of its network; the inflation of a U-Net's encoder is part of it."""
        inflation = {"axis": self.axis, "normalize": self.normalize}
        return self._set(NETWORK[self.family]) | (inflation if self.family == "unet" else {})

    def _set(self, names: tuple[str, ...]) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def chain(self) -> list[SegmentSpec]:
        """Return the runs that this one needs, itself last."""
        return [self]

    def row(self) -> dict[str, Any]:
        """Return the settings as one flat table row."""
        return dict(self)

    def label(self) -> str:
        """Return a short text for people; it does not name every setting."""
        plain = "" if self.protocol == "clean" else f", {self.protocol} protocol"
        return (
            f"{self.model} {self.weights} {self.regime} on {self.scenes}{plain}, "
            f"{self.epochs} epochs, seed {self.seed}"
        )
