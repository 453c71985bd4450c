"""Image weights: cards, files and fetching, and image models with every tensor accounted for."""

from i2p_lib.weights.building import image_input, image_model, with_weights
from i2p_lib.weights.cards import WeightCard, model_library, weight_card, weight_cards
from i2p_lib.weights.files import fetch_weights, presence, verified, weights_hash
