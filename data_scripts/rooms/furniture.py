"""Furniture of the simulated rooms: home objects by kind, in true size and plausible colours."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from rooms.plan import Box, Item, Model, Plan
from rooms.scanner import Look, discs

from i2p_lib.data.registry import dataset_card, load_dataset


@dataclass(frozen=True)
class Kind:
    """Furniture of one kind: its class in S3DIS, where it comes from, its height in metres.

    source: a class of home_objects; names: which of its objects, by their names in the catalogue;
    but: ids of objects whose name misleads (a desk with shelves on it, a lamp that hangs);
    widest: no footprint is longer, in metres.
    """

    label: str
    source: str
    names: str
    height: tuple[float, float]
    widest: float = 2.4
    but: tuple[str, ...] = ()


KINDS = {
    "chair": Kind("chair", "chair", "(?i)^((oak|cafe|plastic|teck) )?chair( with cushion)?$"
                  "|class seat", (0.82, 0.98), 0.75),
    "armchair": Kind("chair", "chair", "(?i)armchair", (0.75, 0.95), 1.2),
    "stool": Kind("chair", "chair", "Stool", (0.60, 0.75), 0.7),
    "desk": Kind("table", "table", "(?i)^((wooden|technical|black|oak|wooden alder|folding) )?"
                 "(table|desk)$|Desk table|Table on trestles", (0.71, 0.76), 2.4,
                 ("Blend Swap CC-0#desk", "Kator Legaz#custom-desk")),
    "coffee table": Kind("table", "table", "Coffee table|Glass table", (0.38, 0.46), 1.4),
    "sofa": Kind("sofa", "sofa", "(?i)sofa|couch", (0.70, 0.85), 2.6),
    "bookcase": Kind("bookcase", "cabinet", "(?i)bookcase|^(vertical )?shelves$|wardrobe|cupboard"
                     "|high cabinet|glass door cabinet", (1.75, 2.10), 2.2),
    "cabinet": Kind("clutter", "cabinet", "(?i)drawers|filing|dresser|chest|lower cabinet|bedside"
                    "|tv stand", (0.55, 0.90), 1.8),
    "bin": Kind("clutter", "container", "(?i)dustbin|trash|recycling|basket", (0.35, 0.60), 0.6),
    "bag": Kind("clutter", "container", "(?i)backpack|case$|handbag|cardboard|trunck|^box$",
                (0.30, 0.45), 0.8),
    "plant": Kind("clutter", "plant", "^(Indoor |Decorative )?[Pp]lant$|Yucca|Bamboo|Spathi|Cactus",
                  (0.80, 1.50), 1.2),
    "flowers": Kind("clutter", "plant", "Tulips|Flowers|Orchids|Little|Bonsai|Spider",
                    (0.25, 0.45), 0.5),
    "vessel": Kind("clutter", "vessel", "(?i)cup|glass|vase|bottle|bowl|press|kettle|pottery|jar",
                   (0.12, 0.32), 0.4),
    "lamp": Kind("clutter", "lamp", "^(Desk |Little )?[Ll]amp$", (0.40, 0.55), 0.6,
                 ("Blend Swap CC-0#lamp2",)),
    "appliance": Kind("clutter", "appliance", "(?i)fridge|refrigerator|water cooler|washing|dryer"
                      "|cooker|large stove", (0.85, 1.25), 1.2),
    "machine": Kind("clutter", "appliance", "(?i)coffee|microwave|toaster|mixer|blender",
                    (0.25, 0.38), 0.6),
}  # fmt: skip

WOODS = ((0.55, 0.38, 0.22), (0.70, 0.54, 0.36), (0.36, 0.24, 0.15), (0.80, 0.76, 0.70))
FABRICS = ((0.16, 0.17, 0.20), (0.20, 0.27, 0.42), (0.45, 0.14, 0.14), (0.30, 0.33, 0.30),
           (0.55, 0.50, 0.42))  # fmt: skip
THINGS = ((0.85, 0.85, 0.83), (0.25, 0.26, 0.28), (0.60, 0.20, 0.15), (0.20, 0.35, 0.55),
          (0.66, 0.52, 0.34), (0.30, 0.45, 0.30))  # fmt: skip
METAL, PAPER, CARTON = (0.45, 0.46, 0.48), (0.90, 0.90, 0.87), (0.66, 0.52, 0.34)


@lru_cache(maxsize=2)
def catalogue(split: str) -> dict[str, tuple[tuple[str, np.ndarray], ...]]:
    """Return for each kind the (name, cloud [2048, 3]) of the objects of home_objects' split.

    Raises ValueError for a kind of which the split has no object.
    """
    clouds = load_dataset("home_objects", split).points
    with open(dataset_card("home_objects").root() / "provenance.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    found = {}
    for name, kind in KINDS.items():
        found[name] = tuple(
            (f"{split}/{row['index']} {row['name']}", clouds[int(row["index"])])
            for row in rows if row["class"] == kind.source and row["id"] not in kind.but
            and re.search(kind.names, row["name"])
        )  # fmt: skip
        if not found[name]:
            raise ValueError(f"home_objects, split {split}: no object is a {name}: {kind}")
    return found


@lru_cache(maxsize=512)
def _discs(split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    return discs(load_dataset("home_objects", split).points[index].astype(np.float64))


def _model(kind: str, split: str, generator: np.random.Generator) -> Model:
    """Return a random object of a kind in true size, on z = 0, centred."""
    of = KINDS[kind]
    name, cloud = catalogue(split)[kind][generator.integers(len(catalogue(split)[kind]))]
    low, high = cloud.min(axis=0).astype(np.float64), cloud.max(axis=0).astype(np.float64)
    extent = high - low
    scale = min(generator.uniform(*of.height) / extent[2], of.widest / extent[:2].max())
    middle = np.array([*(low + high)[:2] / 2, low[2]])
    normals, radii = _discs(split, int(name.split("/")[1].split(" ")[0]))
    return Model(name, (cloud - middle) * scale, normals, radii * scale)


def varied(colour: tuple, generator: np.random.Generator, by: float = 0.06) -> tuple:
    """Return a colour that differs a little, all of it and each channel."""
    shift = generator.normal(0, by / 2) + generator.normal(0, by / 2, 3)
    return tuple(np.clip(np.array(colour) + shift, 0.04, 0.97).tolist())


def _look(kind: str, name: str, generator: np.random.Generator) -> Look:
    """Return plausible colours for an object of a kind; `name` tells shelves from cupboards."""
    def one(of: tuple) -> tuple:
        return varied(of[generator.integers(len(of))], generator)

    if kind in ("chair", "stool", "armchair", "sofa"):
        low = {"sofa": 0.10, "armchair": 0.15}.get(kind, 0.38)
        return Look(one(FABRICS), one((METAL, *WOODS[:2])), "legs", low)
    if kind in ("desk", "coffee table"):
        return Look(one(WOODS), one((METAL, *WOODS)), "legs", 0.66 if kind == "desk" else 0.30)
    if kind == "bookcase":
        filled = 0.7 * ("ookcase" in name) + 0.4 * ("helves" in name)
        return Look(one(WOODS), pattern="books", pitch=filled)
    if kind in ("plant", "flowers"):
        pot = 0.30 if kind == "plant" else 0.08
        return Look(varied((0.20, 0.42, 0.16), generator), one(THINGS), "leaves", pot)
    return Look(one(WOODS if kind == "cabinet" else THINGS))


@dataclass
class Furnisher:
    """Puts objects of one split of home_objects into a plan."""

    plan: Plan
    split: str

    @property
    def generator(self) -> np.random.Generator:
        return self.plan.generator

    def pick(self, kind: str) -> tuple[Model, str, Look]:
        """Return a random object of a kind, its class, its colours."""
        model = _model(kind, self.split, self.generator)
        return model, KINDS[kind].label, _look(kind, model.name, self.generator)

    def along_walls(self, kind: str, count: int, walls: Iterable[int] = range(4)) -> list[Item]:
        """Stand up to `count` objects with their backs to walls."""
        walls, found = list(walls), []
        for _ in range(3 * count):
            if len(found) < count:
                number = walls[self.generator.integers(len(walls))]
                found.append(self.plan.against(number, *self.pick(kind)))
                found = [item for item in found if item]
        return found

    def middle(self, kind: str, count: int) -> list[Item]:
        """Stand up to `count` equal objects in a row in the middle of the room."""
        width, depth = self.plan.size[:2]
        along = np.array([1.0, 0.0] if width > depth else [0.0, 1.0])
        model, label, look = self.pick(kind)
        step = 2 * model.half[0] + 0.04
        count = max(1, min(count, int((max(width, depth) - 2.6) / step)))
        found = []
        for k in range(count):
            x, y = np.array([width, depth]) / 2 + along * step * (k - (count - 1) / 2)
            box = self.plan.box_of(model, x, y, np.arctan2(along[1], along[0]))
            if self.plan.fits(box):
                found.append(self.plan.put(model, label, look, box))
        return found

    def seats(self, table: Item, kind: str, side: tuple[int, int], count: int) -> None:
        """Draw up to `count` equal seats up to one side of a table."""
        model, _, look = self.pick(kind)
        length = table.box.half_x if side[0] == 0 else table.box.half_y
        count = max(1, min(count, int(2 * length / (2 * model.half[0] + 0.1))))
        for k in range(count):
            along = 2 * length * ((k + 0.5) / count - 0.5)
            self.plan.seat(table, side, along, model, look)

    def about(self, kind: str, count: int) -> None:
        """Stand up to `count` objects anywhere on the floor."""
        for _ in range(count):
            self.plan.anywhere(*self.pick(kind))

    def on(self, table: Item, kinds: Iterable[str]) -> None:
        """Stand small objects on a table where its top is flat and free."""
        for kind in kinds:
            model, label, look = self.pick(kind)
            box = self.plan.spot_on(table, model.half.tolist(), model.height)
            if box is not None:
                self.plan.put(model, label, look, box)

    def papers(self, table: Item, count: int) -> None:
        """Lay paper and books on a table."""
        for _ in range(count):
            height = float(self.generator.uniform(0.02, 0.12))
            box = self.plan.spot_on(table, (0.11, 0.15), height)
            if box is not None:
                look = Look(varied(PAPER, self.generator, 0.3))
                self.plan.put_blocks("clutter", box, [(box, look)])

    def screen(self, table: Item) -> None:
        """Stand a screen on a table, facing the table's front."""
        box = self.plan.spot_on(table, (0.28, 0.09), 0.48, facing=0.0)
        if box is None:
            return
        dark = Look((0.09, 0.10, 0.12))
        self.plan.put_blocks("clutter", box, (
            (Box(box.x, box.y, 0.10, 0.08, box.yaw, box.low, box.low + 0.02), dark),
            (Box(box.x, box.y, 0.02, 0.015, box.yaw, box.low + 0.02, box.low + 0.14), dark),
            (Box(box.x, box.y, 0.28, 0.02, box.yaw, box.low + 0.14, box.high), dark),
        ))  # fmt: skip

    def cartons(self, count: int) -> None:
        """Stand cartons on free floor, some on top of each other."""
        for _ in range(count):
            half = self.generator.uniform(0.15, 0.30, 2).tolist()
            x, y = self.generator.uniform(0.4, np.array(self.plan.size[:2]) - 0.4)
            yaw, low = float(self.generator.normal(0, 0.15)), 0.0
            for _ in range(self.generator.integers(1, 4)):
                box = Box(float(x), float(y), *half, yaw, low,
                          low + float(self.generator.uniform(0.25, 0.45)))  # fmt: skip
                if self.plan.fits(box):
                    look = Look(varied(CARTON, self.generator))
                    self.plan.put_blocks("clutter", box, [(box, look)])
                    low = box.high + 0.005


# --- rooms ------------------------------------------------------------------------------------

def _office(fill: Furnisher) -> None:
    for desk in fill.along_walls("desk", int(fill.generator.integers(2, 5))):
        fill.seats(desk, "chair", (0, -1), 1)
        fill.screen(desk)
        fill.papers(desk, 4)
        fill.on(desk, ("lamp", "vessel", "flowers")[: fill.generator.integers(1, 4)])
    fill.along_walls("bookcase", int(fill.generator.integers(1, 3)))
    fill.along_walls("cabinet", 3)
    fill.along_walls("bin", 1)
    fill.about("plant", 1)
    fill.about("chair", 2)
    fill.cartons(1)
    fill.about("bag", 1)


def _conference(fill: Furnisher) -> None:
    for table in fill.middle("desk", 3):
        for side in ((0, -1), (0, 1)):
            fill.seats(table, "chair", side, 3)
        fill.papers(table, 3)
        fill.on(table, ("vessel", "vessel"))
    fill.along_walls("cabinet", 2)
    fill.along_walls("bookcase", 1)
    fill.along_walls("chair", 4)
    fill.along_walls("plant", 1)
    fill.along_walls("bin", 1)


def _hallway(fill: Furnisher) -> None:
    long = (1, 3) if fill.plan.size[1] > fill.plan.size[0] else (0, 2)
    fill.along_walls("bookcase", 1, long)
    fill.along_walls("cabinet", 2, long)
    fill.along_walls("bin", 2, long)
    fill.along_walls("chair", 3, long)
    fill.along_walls("plant", 1, long)


def _storage(fill: Furnisher) -> None:
    fill.along_walls("bookcase", 2)
    fill.along_walls("appliance", 2)
    fill.along_walls("cabinet", 2)
    fill.cartons(8)
    fill.about("bag", 2)
    fill.about("stool", 1)


def _lounge(fill: Furnisher) -> None:
    fill.along_walls("sofa", 2)
    for table in fill.middle("coffee table", 1):
        fill.on(table, ("vessel", "flowers"))
        fill.papers(table, 2)
        for side in ((-1, 0), (1, 0)):
            fill.seats(table, "armchair", side, 1)
    for desk in fill.along_walls("desk", 2):
        fill.on(desk, ("machine", "vessel", "vessel"))
        fill.seats(desk, "stool", (0, -1), 2)
    fill.along_walls("bookcase", 1)
    fill.along_walls("appliance", 2)
    fill.along_walls("cabinet", 2)
    fill.along_walls("plant", 2)
    fill.about("plant", 1)
    fill.about("chair", 2)
    fill.along_walls("bin", 1)


_LAYOUTS = {"office": _office, "hallway": _hallway, "conferenceRoom": _conference,
            "storage": _storage, "lounge": _lounge}  # fmt: skip


def furnish(kind: str, plan: Plan, split: str) -> None:
    """Fill a room of a kind (office, hallway, ...) with objects of home_objects' split."""
    _LAYOUTS[kind](Furnisher(plan, split))
