"""An item of the paper is shown where nothing ran, too."""

import pandas as pd

from i2p_lib.runs.spec import RunSpec
from i2p_lib.show import comparison


def test_an_experiment_without_runs_shows_what_the_paper_has(tmp_path, monkeypatch):
    """Promise: columns without rows, which a profile without those runs gives, are fine."""
    monkeypatch.setenv("I2P_BUILD", str(tmp_path))
    nothing = pd.DataFrame(columns=list(RunSpec.model_fields))
    assert "57.5" in comparison.versus_paper("table4", nothing, "demo")
    assert "No run of this profile" in comparison.versus_paper("pointcontrast", nothing, "demo")
