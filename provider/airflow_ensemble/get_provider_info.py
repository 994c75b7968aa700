"""What Airflow must know of this provider. Imported by every Airflow process: no imports here."""

from __future__ import annotations

_NAME = "Ensemble"


def get_provider_info() -> dict[str, object]:
    """Return the provider's metadata, as Airflow's ``provider_info.schema.json`` wants it."""
    return {
        "package-name": "airflow-provider-ensemble",
        "name": _NAME,
        "description": (
            "Runs ensembles of independent simulations as ordinary DAGs: on this machine, "
            "on Slurm and on Kubernetes."
        ),
        "connection-types": [_slurm_connection()],
        "hooks": _modules("hooks.ensemble", "hooks.slurm"),
        "operators": _modules(
            "operators.collect",
            "operators.dispatch",
            "operators.plan_workers",
            "operators.pull_worker",
            "operators.register",
            "operators.run_chunk",
            "operators.slurm_collect",
            "operators.slurm_submit",
        ),
        "sensors": _modules("sensors.drained", "sensors.slurm_chunk"),
        "triggers": _modules("triggers.drained", "triggers.pull_worker", "triggers.slurm_chunk"),
        "extra-links": ["airflow_ensemble.operators.slurm_job_link.SlurmJobLink"],
    }


def _modules(*names: str) -> list[dict[str, object]]:
    modules = [f"airflow_ensemble.{name}" for name in names]
    return [{"integration-name": _NAME, "python-modules": modules}]


def _slurm_connection() -> dict[str, object]:
    return {
        "connection-type": "slurm",
        "hook-class-name": "airflow_ensemble.hooks.slurm.SlurmHook",
        "hook-name": "Slurm over SSH",
        "ui-field-behaviour": {
            "hidden-fields": ["schema", "extra"],
            "relabeling": {"login": "User", "host": "Login node"},
            "placeholders": {
                "host": "login.hpc.example.org; empty: Slurm's commands on the Airflow worker",
                "port": "22",
            },
        },
        "conn-fields": {
            "remote_root": _text(
                "Remote root", "Folder on the cluster for scripts and logs; must exist"
            ),
            "partition": _text("Partition", "Where the ensemble file names none"),
            "account": _text("Account", "Where the ensemble file names none"),
            "setup": _text(
                "Set-up lines", "Shell lines before the worker, e.g. module load", "multiline"
            ),
            "python": _text(
                "Python", "Interpreter that Test Connection looks for; default python3"
            ),
            "poll_interval": {
                "label": "Poll interval",
                "description": "Seconds between two polls, at least; default 10",
                "schema": {"type": ["number", "null"], "minimum": 1, "maximum": 3600},
            },
            "private_key": _text("Private key", "Its text, instead of a password", "multiline"),
            "private_key_passphrase": _text("Passphrase", "Of the private key", "password"),
            "key_file": _text("Key file", "Path of a private key on the Airflow machines"),
            "host_key": _text(
                "Host key", "As ssh-keyscan prints it, or its SHA256 fingerprint", "multiline"
            ),
            "known_hosts": _text(
                "Known hosts", "Path of a known_hosts file on the Airflow machines"
            ),
            "no_host_key_check": {
                "label": "No host key check",
                "description": "Trust whatever answers: anyone on the way can take over",
                "schema": {"type": ["boolean", "null"], "default": False},
            },
            "proxy_jump": _text("Proxy jump", "[user@]host[:port], several separated by commas"),
            "control_path": _text(
                "Control path", "Socket of an OpenSSH master that a person opens"
            ),
            "job_url": _text("Job page", "The site's page of a job, with {job_id} in it", "url"),
        },
    }


def _text(label: str, description: str, format: str | None = None) -> dict[str, object]:
    schema: dict[str, object] = {"type": ["string", "null"]}
    if format is not None:
        schema["format"] = format
    return {"label": label, "description": description, "schema": schema}
