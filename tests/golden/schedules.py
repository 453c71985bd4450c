"""05b: learning rates of the three recipes, before each step."""

from __future__ import annotations

from i2p_lib.train.optimise import learning_rate
from i2p_lib.train.settings import SegmentSettings, Settings
from tests.golden.items import item
from tests.golden.original import apart, golden

FILE = "05b_lr_schedules"
RELEASED = {"optimizer": "sgd", "protocol": "released"}


def released(settings: Settings, size: int) -> float:
    """The factor at some iterations of the released 15 epochs of 19,132 scans."""
    whole = settings.but(epochs=15, lr=1.0)
    ours = [learning_rate(whole, int(step), -(-19_132 // (2 * size)))
            for step in golden(FILE)["kitti_k"]]  # fmt: skip
    return apart(ours, golden(FILE)[f"kitti_released_factor_size{size}"])


def differs(key: str, settings: Settings, steps_per_epoch: int) -> float:
    theirs = golden(FILE)[key]
    ours = [learning_rate(settings, step, steps_per_epoch) for step in range(len(theirs))]
    return apart(ours, theirs)


@item("05b ModelNet40, stepped per iteration", 1e-9)
def modelnet() -> float:
    """A cosine whose half period is 3 and 100 iterations, over several of its periods."""
    settings = Settings(lr=0.1, schedule="cosine_per_iteration", **RELEASED)
    return max(differs(key, settings.but(epochs=half), steps)
               for key, half, steps in (("modelnet_T3_30it", 3, 10),
                                        ("modelnet_T100_350it", 100, 350)))  # fmt: skip


@item("05b S3DIS, poly", 1e-9)
def rooms() -> float:
    """A power of 0.9 over 30 iterations, and the first 30 of the released 10,400."""
    return max(differs("s3dis_max30_30it", SegmentSettings(lr=0.1, schedule="poly", epochs=1,
                                                           **RELEASED), 30),
               differs("s3dis_released_30it", SegmentSettings(lr=0.1, schedule="poly", epochs=400,
                                                              **RELEASED), 26))  # fmt: skip


@item("05b SemanticKITTI, one process", 1e-9)
def streets() -> float:
    """A cosine without warm-up over three epochs."""
    settings = SegmentSettings(lr=0.24, schedule="cosine", epochs=3, **RELEASED)
    return max(differs("kitti_3ep_size1", settings, 2000),
               differs("kitti_3ep_10it_size1", settings, 10), released(settings, 1))  # fmt: skip


for _size in (2, 8):

    @item(f"05b SemanticKITTI, {_size} processes", 1e-9)
    def warm(size: int = _size) -> float:
        """A warm-up of 1000 / processes iterations, then a cosine, batch 2 a process."""
        settings = SegmentSettings(lr=0.24, schedule="warmup_cosine", epochs=3,
                                   warmup_steps=1000 // size, **RELEASED)  # fmt: skip
        return max(differs(f"kitti_3ep_size{size}", settings, 4000 // (2 * size)),
                   released(settings, size))  # fmt: skip
