"""The commands `data` and `weights`: what networks learn from, listed, fetched and checked."""

import argparse
from collections.abc import Callable
from pathlib import Path

DATA_EXAMPLES = """examples:
  i2p data list                          each set: source, licence, size, whether it is here
  i2p data check home_objects            its hash
  i2p data check my_clouds               what a folder of yours becomes, and its faults
  i2p data get simulated_rooms           generate rooms in S3DIS's form, about a minute
  i2p data get modelnet40                fetch 435 MB; an interrupted download goes on
  i2p data get s3dis --from FOLDER --workers 4    convert the official folder, 4 processes

Sets go to $I2P_DATA, else to data_cache in the project.
"""
WEIGHT_EXAMPLES = """examples:
  i2p weights list                       each file: present, absent or never released; licence
  i2p weights get resnet50               its ImageNet-1k weights; an interrupted download goes on
  i2p weights get resnet50:imagenet21k   other weights of the same model
  i2p weights check efficientnet_lite0   its hash, and whether every tensor fits the model

Files go to $I2P_WEIGHTS, else to torch hub's checkpoint folder; resnet18:mine.pth names your own.
"""


def add_inputs(command: Callable[..., argparse.ArgumentParser], count: Callable) -> None:
    """Add the commands to a parser; `command` adds one, `count` reads a number of 1 or more."""
    data = command("data", _data, "data sets: list, get, check", DATA_EXAMPLES)
    weights = command("weights", _weights, "image weights: list, get, check", WEIGHT_EXAMPLES)
    check = command("check", _check, "read all that is stored again, and list what is damaged")
    check.add_argument("runs", nargs="*", type=Path, metavar="RUN",
                       help="folders of runs (default: all runs of the store, sets and weights)")
    for sub, metavar, what in ((data, "NAME", "a data set"),
                               (weights, "MODEL[:WEIGHTS]", "an image model and its weights")):
        sub.add_argument("action", choices=("list", "get", "check"))
        sub.add_argument("name", nargs="?", metavar=metavar, help=f"{what}, for get and check")
    data.add_argument("--from", dest="source", type=Path, metavar="PATH",
                      help="get: the official folder of s3dis and semantic_kitti, or the zip file "
                      "of modelnet40")
    data.add_argument("--part", action="store_true",
                      help="get: take a part of the set, or others in its layout")
    data.add_argument("--workers", type=count, default=1, help="get: processes (default: 1)")


def _check(options: argparse.Namespace) -> int:
    from i2p_lib.data import manifests, registry
    from i2p_lib.runs import store
    from i2p_lib.weights import presence, weight_cards

    runs, sets, bad = options.runs, [], []
    if not runs:
        runs = sorted({path.parent for path in store.store_root().glob("*/*.json")})
        roots = registry.HERE, registry.data_folder("")
        sets = [path.parent for root in roots for path in root.glob(f"*/{manifests.MANIFEST}")]
        bad = [text for card in weight_cards() if (text := presence(card)).startswith("damaged")]
    for look, folders in ((store.audit, runs), (manifests.audit, sets)):
        for folder in folders:
            try:
                look(folder)
            except (OSError, ValueError) as error:
                bad.append(f"damaged: {error}")
    print(*bad, f"{len(runs)} runs and {len(sets)} sets read: {len(bad)} damaged", sep="\n")
    return int(bool(bad))


def _data(options: argparse.Namespace) -> None:
    from i2p_lib.data.get import check_data, data_cards, get_data
    from i2p_lib.data.own import PointClouds
    from i2p_lib.train.settings import unknown_key

    cards, name = data_cards(), options.name
    if options.action == "list":
        print("\n".join(cards.values()))
        return
    if not name:
        raise ValueError(f"i2p data {options.action}: name a set; known are {', '.join(cards)}")
    if name not in cards and options.action == "check" and Path(name).expanduser().exists():
        print(PointClouds.from_folder(name))
        return
    if name not in cards:
        raise ValueError(unknown_key(name, tuple(cards), "data set"))
    if options.action == "get":
        get_data(name, options.source, options.part, options.workers)
    print(check_data(name))


def _weights(options: argparse.Namespace) -> None:
    from i2p_lib import weights

    if options.action == "list":
        for card in weights.weight_cards():
            print(card.text(weights.presence(card)))
        return
    if not options.name:
        raise ValueError(f"i2p weights {options.action}: name an image model, such as resnet50, "
                         "or resnet50:fractaldb1k; i2p weights list shows all")
    model, _, name = options.name.partition(":")
    card = weights.weight_card(model, name or "imagenet1k")
    path, digest = (weights.fetch_weights if options.action == "get" else weights.verified)(card)
    lines = [f"{card.label}: good, {path}", f"  sha256 {digest} (published: {card.hash_text})"]
    if card.network == "image":
        table = weights.image_model(card.model, card.weights).i2p_transfer
        counts = table["state"].value_counts().to_dict()
        lines.append("  tensors: " + ", ".join(f"{n} {state}" for state, n in counts.items()))
    print("\n".join(lines))
