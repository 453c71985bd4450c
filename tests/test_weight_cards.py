"""Weight cards: one for each set of weights the paper names, complete, and validated on reading."""

import pytest
import yaml

from i2p_lib import weights
from i2p_lib.book import pages
from i2p_lib.weights.cards import CARDS_FILE, OWN_BUILDERS, model_library, read_cards

CARDS = {card.label: card for card in weights.weight_cards()}
# What the paper and its code name: each must have a card.
NAMED = {
    "resnet18:imagenet1k", "resnet34:imagenet1k", "resnet50:imagenet1k", "resnet101:imagenet1k",
    "resnet152:imagenet1k", "wide_resnet101_2:imagenet1k", "efficientnet_lite0:imagenet1k",
    "vit_base_patch16_224:imagenet21k", "vit_large_patch16_224:imagenet21k",
    "resnet50:imagenet21k", "resnet50:tiny_imagenet", "resnet50:fractaldb1k",
    "resnet50:fractaldb10k", "resnet50:stylized_imagenet", "bagnet17:imagenet1k",
    "bagnet33:imagenet1k", "res16unet34:pointcontrast_nce", "res16unet34:pointcontrast_hardest",
    "hrnet_w48:imagenet1k", "hrnet_w48:cityscapes", "pointnet2_ssg:imagenet1k_pixels",
    "simpleview:imagenet1k", "res16unet34:imagenet1k",
}  # fmt: skip


def test_every_named_set_of_weights_has_a_card():
    """Promise: nothing the paper names is left out, and each card is found by its own name."""
    assert NAMED <= set(CARDS)
    assert all(weights.weight_card(c.model, c.weights) == c for c in CARDS.values())


@pytest.mark.parametrize("label", sorted(CARDS))
def test_a_card_says_enough_to_judge_the_file_before_it_is_had(label):
    """Promise: source, licence, size, hash, format and way are said; unknown is said so too."""
    card = CARDS[label]
    assert card.source and card.licence and card.pretraining and card.how_to_get
    assert card.size_text and card.hash_text and card.file_format
    assert all(url == "" or url.startswith("https://") for url in (card.url, card.page))
    if not card.released:
        assert "never released" in card.how_to_get and not card.sha256 and not card.size


def test_what_nobody_published_is_marked():
    """Promise: exactly the four files that their authors kept, or nobody has, are unreleased."""
    assert {label for label, card in CARDS.items() if not card.released} == {
        "resnet50:tiny_imagenet", "res16unet34:imagenet1k", "pointnet2_ssg:imagenet1k_pixels",
        "simpleview:imagenet1k",
    }  # fmt: skip


def test_library_files_are_those_of_the_library():
    """Promise: torchvision's and timm's addresses and hashes are read from them, not copied."""
    card = CARDS["resnet152:imagenet1k"]
    assert card.sha256 == "394f9c45" and card.size_text == "230 MiB" and card.used_in
    vit = CARDS["vit_base_patch16_224:imagenet21k"]
    assert vit.tag == "augreg_in21k" and vit.file_format == "safetensors"
    assert vit.hash_text == "not published (unverified)" and vit.size_text == "410 MB"


def test_the_library_of_a_name():
    """Promise: one function says who builds a name, the book's own 2D networks included."""
    names = ("efficientnet_lite1", "resnet50", "hrnet_w48", *OWN_BUILDERS)
    assert [model_library(n) for n in names] == ["lite", "torchvision", "timm"] + ["i2p"] * 3


def test_slips_in_names_are_met_with_the_close_ones():
    """Promise: an unknown model or weights name is an error that helps."""
    with pytest.raises(ValueError, match="unknown image model 'bagnet3'.*'bagnet33'"):
        weights.image_model("bagnet3")
    with pytest.raises(ValueError, match="did you mean 'fractaldb1k'.*stylized_imagenet"):
        weights.weight_card("resnet50", "fractaldb1")
    with pytest.raises(ValueError, match="unknown weights 'imagenet1k' for pointnet2_ssg"):
        weights.weight_card("pointnet2_ssg")


def changed(tmp_path, change):
    stored = yaml.safe_load(CARDS_FILE.read_text())
    change(stored)
    path = tmp_path / "cards.yml"
    path.write_text(yaml.safe_dump(stored))
    return path


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda s: s["cards"][0].update(sha265="00"), "sha265"),
        (lambda s: s["cards"][0].update(size="18 MB"), "size"),
        (lambda s: s["cards"][0].update(sha256="not hex"), "sha256"),
        (lambda s: s["cards"][0].pop("licence"), "licence"),
        (lambda s: s["cards"][0].update(file_name="../up.pth"), "file_name"),
        (lambda s: s["cards"][0].update(released=False), "an unreleased file has no"),
        (lambda s: s["cards"].append(s["cards"][0]), "more than one card for efficientnet_lite0"),
        (lambda s: s.pop("library"), "library"),
    ],
)
def test_a_wrong_card_is_refused_with_its_field(tmp_path, change, complaint):
    """Promise: a slip in the card file is an error that names the file and the field."""
    with pytest.raises(ValueError, match=f"cards.yml: (.|\n)*{complaint}"):
        read_cards(changed(tmp_path, change))


def test_the_page_shows_every_card_and_escapes_it():
    """Promise: the book has a row for each card, and no text of a card becomes markup."""
    text = pages.weights()["weights"]
    assert all(f"<code>:{card.weights}</code>" in text for card in CARDS.values())
    assert text.count("never released") >= 4 and text.count("<tr>") == len(CARDS) + 1
    hostile = '<script>alert(1)</script> & ``` "quoted"'
    fields = ("pretraining", "used_in", "source", "licence", "page", "note", "size_published")
    card = CARDS["bagnet17:imagenet1k"].model_copy(update=dict.fromkeys(fields, hostile))
    shown = pages.weights([card])["weights"]
    assert "<script>" not in shown and "&lt;script&gt;" in shown and '"quoted"' not in shown
