"""Names that chapters 5 to 8 still use; the plots themselves are in bars, lines and scatter."""

from i2p_lib.analysis.methods import method_label, with_method  # noqa: F401
from i2p_lib.show.lines import collapse_curves, layer_profiles  # noqa: F401
from i2p_lib.show.scatter import collapse_scatter, feature_maps  # noqa: F401
from i2p_lib.show.style import COLOURS as METHODS  # noqa: F401
from i2p_lib.show.style import plain_log, use_style  # noqa: F401
