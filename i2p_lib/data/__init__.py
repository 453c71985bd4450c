"""Point clouds: loaders of the real file formats, data set cards, transforms, few-shot episodes."""

from i2p_lib.data.episodes import few_shot_episode
from i2p_lib.data.modelnet import PointCloudSet
from i2p_lib.data.registry import dataset_card, dataset_hash, dataset_names, load_dataset
from i2p_lib.data.transforms import PAPER_AUGMENT, Augment, augment
