"""Image weights: cards, files and fetching, and image models with every tensor accounted for."""

from i2p_lib.weights.building import image_model, load_weights
from i2p_lib.weights.cards import WeightCard, model_library, weight_card, weight_cards
from i2p_lib.weights.files import check_weights, fetch_weights, presence, weights_hash
from i2p_lib.weights.images import image_input, imagenet_class_names
from i2p_lib.weights.loading import TransferReport, convert_checkpoint

__all__ = [
    "TransferReport", "WeightCard", "check_weights", "convert_checkpoint", "fetch_weights",
    "image_input", "image_model", "imagenet_class_names", "load_weights", "model_library",
    "presence", "weight_card", "weight_cards", "weights_hash",
]  # fmt: skip
