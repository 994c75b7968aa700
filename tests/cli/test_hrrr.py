"""``ensemble run`` on real meteorology gives what calling the model's library directly gives."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from tests.hrrr import receptors, write_hrrr_ensemble


def test_eight_real_footprints_equal_those_of_pystilt(tmp_path, cli, hrrr, hrrr_oracle):
    output = tmp_path / "output"
    file = write_hrrr_ensemble(tmp_path, hrrr, output)

    ended = cli("run", file, "--n-workers", 2)

    assert ended.code == 0, ended.err
    assert ended.out.startswith("8 complete (0 empty), 0 failed")
    for row in receptors():
        products = {
            product["name"]: output / product["path"]
            for product in cli("show", row["id"], "-f", file, "--json").json["products"]
        }
        expected = hrrr_oracle[row["id"]]
        with xr.open_dataset(products["footprint"]) as dataset:
            np.testing.assert_array_equal(dataset["foot"].values, expected.footprint.values)
        particles = pd.read_parquet(products["trajectory"])
        pd.testing.assert_frame_equal(particles, expected.trajectory)
