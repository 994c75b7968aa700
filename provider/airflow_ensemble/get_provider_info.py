"""What Airflow must know of this provider. Imported by every Airflow process: no imports here."""

from __future__ import annotations


def get_provider_info() -> dict[str, object]:
    """Return the provider's metadata, as Airflow's ``provider_info.schema.json`` wants it."""
    name = "Ensemble"
    return {
        "package-name": "airflow-provider-ensemble",
        "name": name,
        "description": (
            "Runs ensembles of independent simulations as ordinary DAGs: on this machine, "
            "on Slurm and on Kubernetes."
        ),
        "hooks": [
            {
                "integration-name": name,
                "python-modules": ["airflow_ensemble.hooks.ensemble"],
            }
        ],
        "operators": [
            {
                "integration-name": name,
                "python-modules": [
                    "airflow_ensemble.operators.collect",
                    "airflow_ensemble.operators.dispatch",
                    "airflow_ensemble.operators.register",
                    "airflow_ensemble.operators.run_chunk",
                ],
            }
        ],
    }
