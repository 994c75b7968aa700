"""Real footprints through array jobs of a real cluster equal what the model's library gives."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import xarray as xr

from tests.cli.login_node import LoginNode
from tests.hrrr import receptors, write_hrrr_ensemble
from tests.services.slurm import SlurmCluster


def test_eight_real_footprints_equal_those_of_pystilt(slurm: SlurmCluster, hrrr, hrrr_oracle):
    slurm.reset()
    node = LoginNode(slurm)
    # The account need not be able to read where the meteorology is kept.
    met = shutil.copytree(hrrr, node.shared / "met")
    execution = {"backend": "slurm", "python": slurm.python_with_models, "n_workers": 4}
    file = write_hrrr_ensemble(
        node.shared / "e", met, node.shared / "e" / "output", execution=execution
    )
    node.own(file.parent)

    ended = node("run", file, "--wait", timeout=400)

    assert ended.code == 0, ended.err
    assert "submitted 4 array elements" in ended.out
    assert "8 complete (0 empty), 0 failed" in ended.out
    for row in receptors():
        products = {
            product["name"]: file.parent / "output" / product["path"]
            for product in node("show", row["id"], "-f", file, "--json").json["products"]
        }
        expected = hrrr_oracle[row["id"]]
        with xr.open_dataset(products["footprint"]) as dataset:
            np.testing.assert_array_equal(dataset["foot"].values, expected.footprint.values)
        particles = pd.read_parquet(products["trajectory"])
        pd.testing.assert_frame_equal(particles, expected.trajectory)
