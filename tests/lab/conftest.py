"""What several commands' tests begin with."""

import pytest

from fourd_minimal.configs.four_diffusion import FOUR_DM
from fourd_minimal.lab.train_four_dm import TrainFourDM


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A folder with the smallest 4DM, trained for a few steps; not to be written into."""
    folder = tmp_path_factory.mktemp("weights")
    TrainFourDM("smoke", out=folder, settings=FOUR_DM["smoke"]).run()
    return folder
