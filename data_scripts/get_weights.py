"""Get a weight file: download it, go on where that stopped, check it, and only then name it.

It goes to --output, else to $I2P_WEIGHTS, else to torch hub's checkpoint folder.  A good file that
is already there is not fetched again.  An interrupted download is kept beside it as `.NAME.part`.

examples:
  python data_scripts/get_weights.py resnet50
  python data_scripts/get_weights.py resnet50:imagenet21k --output /data/weights

The same as `i2p weights get resnet50`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import requests
from _scenes import status_of
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from i2p_lib.files import write_text
from i2p_lib.weights.cards import WeightCard, weight_card
from i2p_lib.weights.files import check_file, find_file, pin_of, verified, weight_folders

_BLOCK = 1 << 20
_SECONDS = (10, 60)  # to connect, and without a byte


def fetch_card(
    card: WeightCard, weights_dir: str | Path | None = None, progress: bool = True
) -> Path:
    """Download the file of a card, check it, and only then put it in its place; return the path.

    weights_dir: the folder (default: see `weight_folders`).
    Raises FileNotFoundError where the file cannot be fetched by a program (what to do instead),
    ConnectionError where the server cannot be reached or the line breaks, ValueError where what
    came is not the file (nothing of it is kept), and RuntimeError where another process fetches it.
    """
    folder = weight_folders(weights_dir)[0]
    if find_file(card, weights_dir) is not None:
        return verified(card, weights_dir)[0]
    if not card.url:
        where = "" if card.pip else f", into {folder}"
        raise FileNotFoundError(
            f"{card.label} cannot be fetched by a program: {card.how_to_get}{where}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / card.file_name
    part = folder / f".{card.file_name}.part"
    try:
        with FileLock(part.with_suffix(".lock"), timeout=0):
            _download(card, part, progress)
            try:
                digest = check_file(card, part)
            except ValueError as error:
                _forget(part)
                raise ValueError(
                    f"{card.url} sent something else than {card.file_name}, nothing is kept: "
                    f"{error}"
                ) from error
            if len(card.sha256) < 64:
                write_text(pin_of(target), digest)
            os.replace(part, target)
            _forget(part)
    except Timeout:
        raise RuntimeError(f"another process is fetching {target} now; wait for it") from None
    return target


def _download(card: WeightCard, part: Path, progress: bool) -> None:
    """Bring the partial file to its full length; what has come stays when the line breaks."""
    total = None
    try:
        with _ask(card, part) as answer:
            if answer.status_code == requests.codes.range_not_satisfiable:
                return  # every byte was here already
            have, total = _extent(card, answer, part)
            with (
                open(part, "ab" if have else "wb") as file,
                tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=card.file_name,
                     disable=not progress) as bar,
            ):  # fmt: skip
                for block in answer.iter_content(_BLOCK):
                    file.write(block)
                    bar.update(len(block))
    except requests.RequestException as error:
        have = part.stat().st_size if part.exists() else 0
        kept = f"; {have} bytes are kept, the same command goes on from there" if have else ""
        raise ConnectionError(
            f"{card.label}: {card.url} could not be fetched ({error}){kept}. Without a network: "
            f"download it elsewhere and place it as {part.parent / card.file_name}"
        ) from error


def _ask(card: WeightCard, part: Path) -> requests.Response:
    """Ask for the rest of the file where a part of it is here, else for all.

    The rest must belong to the part: the server is given the version that the part began with,
    or, where it named none, the published hash will tell in the end.
    """
    headers = {"Accept-Encoding": "identity"}
    have = part.stat().st_size if part.exists() else 0
    version = _version_file(part)
    if have and (version.exists() or card.sha256):
        rest = {"Range": f"bytes={have}-"}
        rest |= {"If-Range": version.read_text()} if version.exists() else {}
        answer = requests.get(card.url, headers=headers | rest, stream=True, timeout=_SECONDS)
        refused = answer.status_code == requests.codes.range_not_satisfiable
        if not refused or answer.headers.get("Content-Range") == f"bytes */{have}":
            if not refused:
                answer.raise_for_status()
            return answer
        answer.close()
    answer = requests.get(card.url, headers=headers, stream=True, timeout=_SECONDS)
    answer.raise_for_status()
    return answer


def _extent(
    card: WeightCard, answer: requests.Response, part: Path
) -> tuple[int, int | None]:
    """Return how many bytes of the file are here already and its length; note its version.

    Raises ValueError where the server announces another file than the card's, before it comes.
    """
    if answer.status_code == 206:
        have = part.stat().st_size
        span, _, length = answer.headers.get("Content-Range", "").partition("/")
        if not span.startswith(f"bytes {have}-"):
            raise ValueError(
                f"{answer.url} was asked for bytes {have} onward and answered with {span!r}; "
                f"remove {part} and try again"
            )
    else:
        have, length = 0, answer.headers.get("Content-Length", "")
        _version_file(part).unlink(missing_ok=True)
        version = answer.headers.get("ETag", "")
        if version and not version.startswith("W/"):  # a weak one does not promise equal bytes
            _version_file(part).write_text(version)
    total = int(length) if length.isdigit() else None
    if card.size and total is not None and total != card.size:
        _forget(part)
        raise ValueError(
            f"{card.url} offers {total} bytes; the published {card.file_name} has {card.size}. "
            "Nothing was fetched"
        )
    return have, total


def _version_file(part: Path) -> Path:
    return part.with_suffix(".etag")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _version_file(part).unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", metavar="MODEL[:WEIGHTS]", help="see `i2p weights list`")
    parser.add_argument("--output", type=Path, help="folder")
    options = parser.parse_args(arguments)
    model, _, weights = options.weights.partition(":")

    def work() -> None:
        card = weight_card(model, weights or "imagenet1k")
        print(f"good: {fetch_card(card, options.output)}")

    return status_of(work)


if __name__ == "__main__":
    sys.exit(main())
