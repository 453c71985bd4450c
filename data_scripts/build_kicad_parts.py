"""Build the data set kicad_parts: electronic parts of KiCad's library, laid out as ModelNet40.

Contract: from the Debian package `kicad-packages3d` 6.0.10-1 (379 MB) the script writes one folder

    ply_data_{train,val,test}0.h5   `data` [N, 2048, 3] float32, `label` [N, 1] uint8
    {train,val,test}_files.txt      the names of those files, as ModelNet40 has them
    shape_names.txt                 class names, in label order
    provenance.csv                  one row a part: where it stands, its family, who made it
    LICENSE.md, manifest.json       licence and attribution; SHA-256 of every file

Classes are the library's folders, those that differ in pin pitch alone taken together.
A family is all parts of a class whose names are equal but for their numbers (pin counts, sizes).
**No family is in two splits, and no part has a twin in another split**: a val part with the shape
of a train part is left out, and a test part with the shape of a train or val part (Chamfer
distance, see _building.same_shape).  So the test split asks for kinds of parts that were not in
training.  At most CAP parts of a class are used, taken from its families in turn.  A class with
fewer than LEAST parts, or with fewer than LEAST_OF parts in a split, is left out, and so are the
files that are not under CC-BY-SA 4.0 or not readable.

A cloud is 2,048 points drawn uniformly from the part's surface, z up, mean at the origin, farthest
point on the unit sphere.  The same input gives the same bytes.  It takes a few minutes and 1.7 GB
of disk beside the output, which are freed at the end.

Examples:
    python data_scripts/build_kicad_parts.py             # package installed, or apt-get download
    python data_scripts/build_kicad_parts.py kicad-packages3d_6.0.10-1_all.deb --workers 2
    python data_scripts/build_kicad_parts.py unpacked/ --output parts
"""

from __future__ import annotations

import argparse
import fnmatch
import re
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import trimesh
from _building import (
    cloud_of,
    download,
    extent,
    file_order,
    same_shape,
    seed_of,
    split_class,
    unpack_deb,
    write_manifest,
    write_set,
)
from _vrml import read_triangles
from tqdm.auto import tqdm

from i2p_lib.data import dataset_card

PACKAGE = "kicad-packages3d"
VERSION = "6.0.10-1"
INSTALLED = Path("/usr/share/kicad/3dmodels")
COPYRIGHT = f"share/doc/{PACKAGE}/copyright"
FOLDER = ".3dshapes"
CAP = 100
LEAST = 15
LEAST_OF = {"train": 10, "val": 1, "test": 2}  # train: the ten shots of few-shot runs
LICENCE = "CC-BY-SA-4.0-with-exception"


@dataclass(frozen=True)
class Part:
    """One part: `id` ("Package_SO/SOIC-8_..."), its class and family, its file, who made it."""

    id: str
    kind: str
    family: str
    path: Path
    made_by: str


# --- the package ------------------------------------------------------------------------------

def package_files(source: Path | None, scratch: Path) -> tuple[list[Path], Path]:
    """Return (the .wrl files, the copyright file) of a .deb, a folder, or the installed package.

    Raises FileNotFoundError where something is missing, ValueError for a damaged package.
    """
    if source is None:
        source = INSTALLED if INSTALLED.is_dir() else download(PACKAGE, scratch)
    if not source.exists():
        raise FileNotFoundError(f"no such file or folder: {source}")
    if source.is_file():
        unpack_deb(source, scratch, (".wrl", COPYRIGHT))
        source = scratch
    files = sorted(source.glob(f"**/*{FOLDER}/*.wrl"), key=lambda path: path.parts[-2:])
    notices = [*source.glob(f"**/{COPYRIGHT}"), Path("/usr") / COPYRIGHT]
    notice = next((path for path in notices if path.is_file()), None)
    if not files or notice is None:
        raise FileNotFoundError(
            f"expected NAME{FOLDER}/*.wrl and {COPYRIGHT} of the Debian package {PACKAGE} under "
            f"{source}, found {len(files)} .wrl files and "
            f"{'no copyright file' if notice is None else notice}; give the .deb file or the "
            "folder it was unpacked to"
        )
    return files, notice


def licences(notice: str) -> Callable[[str], tuple[str, str]]:
    """Return the function from a file's name to its (licence, holder), as the notice says.

    `notice` is a Debian copyright file; its last stanza that matches a file counts.
    """
    stanzas = []
    for stanza in re.split(r"\n\s*\n", notice):
        fields = dict(re.findall(r"^(Files|Copyright|License):((?:.*\n?)(?:[ \t].*\n?)*)",
                                 stanza, re.MULTILINE))
        if "Files" in fields:
            pattern = "|".join(map(fnmatch.translate, fields["Files"].split()))
            holder = " ".join(fields.get("Copyright", "").split())
            licence = (fields.get("License", "").split() or ["unknown"])[0]
            stanzas.append((re.compile(pattern), (licence, holder)))
    return lambda name: next(
        (found for pattern, found in reversed(stanzas) if pattern.match(name)), ("unknown", "")
    )


def class_of(folder: str) -> str:
    """Return the class of a folder: its name without the pin pitch.

    >>> class_of("Connector_PinHeader_1.27mm.3dshapes")
    'Connector_PinHeader'
    """
    return re.sub(r"_\d[\d.]*mm$", "", folder.removesuffix(FOLDER))


def family_of(name: str) -> str:
    """Return a part's name with each number, or product of numbers, replaced by #.

    >>> family_of("PinHeader_2x03_P1.00mm_Vertical")
    'PinHeader_#_P#mm_Vertical'
    """
    return re.sub(r"\d+(?:[.,]\d+)*(?:x\d+(?:[.,]\d+)*)*", "#", name)


def list_parts(files: list[Path], notice: str) -> tuple[list[Part], dict[str, str]]:
    """Return (parts, reasons by id of those under another licence)."""
    licence_of = licences(notice)
    parts, skipped = [], {}
    for path in files:
        folder = path.parent.name
        name = f"{folder.removesuffix(FOLDER)}/{path.stem}"
        licence, holder = licence_of(f"{folder}/{path.name}")
        if licence != LICENCE:
            skipped[name] = f"licence {licence}"
            continue
        parts.append(Part(name, class_of(folder), family_of(path.stem), path, holder))
    return parts, skipped


def choose(parts: list[Part]) -> dict[str, list[Part]]:
    """Return class -> at most CAP parts, from its families in turn, each in the order of hashes."""
    kinds: dict[str, dict[str, list[Part]]] = defaultdict(lambda: defaultdict(list))
    for part in sorted(parts, key=lambda part: seed_of(part.id)):
        kinds[part.kind][part.family].append(part)
    chosen = {}
    for kind in sorted(kinds):
        rounds = chain.from_iterable(zip_longest(*kinds[kind].values()))
        chosen[kind] = [part for part in rounds if part is not None][:CAP]
    return {kind: members for kind, members in chosen.items() if len(members) >= LEAST}


# --- the clouds -------------------------------------------------------------------------------

def sample_part(part: Part) -> np.ndarray | str:
    """Return a part's cloud [2048, 3] float32, or why there is none."""
    try:
        mesh = trimesh.Trimesh(*read_triangles(part.path.read_bytes()), process=False)
        if not mesh.area > 0:
            return "its surface has no area"
        return cloud_of(mesh, part.id)
    except ValueError as error:
        return str(error)


def sample_all(parts: list[Part], workers: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return (clouds by id, reasons by id of parts that cannot be read)."""
    with ProcessPoolExecutor(workers) as pool:
        results = pool.map(sample_part, parts, chunksize=8)
        bar = tqdm(results, total=len(parts), desc="sample surfaces", unit="part")
        made = {part.id: cloud for part, cloud in zip(parts, bar, strict=True)}
    skipped = {name: reason for name, reason in made.items() if isinstance(reason, str)}
    return {name: cloud for name, cloud in made.items() if name not in skipped}, skipped


def split_parts(kinds: dict[str, list[Part]], clouds: dict) -> tuple[dict, list, dict]:
    """Return (split by id, ids of twins left out, reason by class left out)."""
    split, twins, left_out = {}, [], {}
    for kind, members in tqdm(kinds.items(), desc="compare shapes", unit="class"):
        families = {part.id: part.family for part in members if part.id in clouds}
        mine, dropped = without_twins(split_class(families), clouds)
        counts = Counter(mine.values())
        if any(counts[name] < least for name, least in LEAST_OF.items()):
            left_out[kind] = f"{dict(counts)} of {len(families)} parts, {len(dropped)} twins"
            continue
        split |= mine
        twins += dropped
    return split, twins, left_out


def without_twins(split: dict[str, str], clouds: dict) -> tuple[dict[str, str], list[str]]:
    """Return the splits of one class without the parts that have a twin in an earlier split."""
    extents = {name: extent(clouds[name]) for name in split}
    kept: dict[str, str] = {}
    for name in file_order(split):
        earlier = [other for other, where in kept.items() if where != split[name]]
        if not any(same_shape(clouds[name], clouds[other], extents[name], extents[other])
                   for other in earlier):
            kept[name] = split[name]
    return kept, [name for name in split if name not in kept]


# --- the whole --------------------------------------------------------------------------------

def build(source: Path | None, output: Path, workers: int) -> None:
    """Build the set into `output`."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".kicad-") as scratch:
        files, notice = package_files(source, Path(scratch))
        parts, skipped = list_parts(files, notice.read_text(encoding="utf-8"))
        kinds = choose(parts)
        chosen = list(chain.from_iterable(kinds.values()))
        clouds, unread = sample_all(chosen, workers)
    split, twins, left_out = split_parts(kinds, clouds)
    if not split:
        raise ValueError(f"no class has {LEAST_OF} parts: {left_out}")
    part_of = {part.id: part for part in chosen}
    rows, position = [], Counter()
    for name in file_order(split):
        part = part_of[name]
        rows.append({
            "index": position[split[name]], "split": split[name], "class": part.kind, "id": name,
            "family": part.family, "copyright": part.made_by, "licence": LICENCE,
        })
        position[split[name]] += 1
    names = sorted({row["class"] for row in rows})
    write_set(output, rows, clouds, names, LICENCE_TEXT)
    skipped |= unread | dict.fromkeys(twins, "the shape of a part in another split")
    write_manifest(output, "kicad_parts", f"Debian {PACKAGE} {VERSION}", skipped)
    families = {(row["class"], row["family"]) for row in rows}
    print(f"{len(rows)} parts of {len(families)} families in {len(names)} classes "
          f"({dict(position)}), written to {output}")
    print(f"left out: {dict(Counter(skipped.values()))}, classes {left_out}")


LICENCE_TEXT = f"""# Licence of kicad_parts

The clouds are samples of surfaces of the KiCad packages3D library
(<https://kicad.github.io/packages3d/>, Debian `{PACKAGE}` {VERSION}), by the KiCad community and
the people whom `provenance.csv` names for each part.
They are licensed under CC-BY-SA 4.0 (<https://creativecommons.org/licenses/by-sa/4.0/legalcode>),
with this exception of the library's authors:

> To the extent that the creation of electronic designs that use 'Licensed Material' can be
> considered to be 'Adapted Material', then the copyright holder waives article 3 of the license
> with respect to these designs and any generated files which use data provided as part of the
> 'Licensed Material'.

Changes made: points were drawn from the surfaces, centred and scaled to the unit sphere; parts were
selected and split as `data_scripts/build_kicad_parts.py` says.
Who passes these clouds on does so under the same licence.
"""


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", nargs="?", type=Path,
                        help=".deb file or folder; default: the installed package, else apt-get")
    parser.add_argument("--output", type=Path, default=dataset_card("kicad_parts").root(),
                        help="folder (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    options = parser.parse_args(arguments)
    try:
        build(options.source, options.output, options.workers)
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
