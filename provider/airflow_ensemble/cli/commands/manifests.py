"""``ensemble manifests``: what Kubernetes is to be told, as YAML."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_ensemble.cli.command import Command, add_file_argument, positive
from airflow_ensemble.cli.console import Console
from airflow_ensemble.cli.opening import load_ensemble

if TYPE_CHECKING:
    from airflow_ensemble.kubernetes.manifests import Workers

KINDS = ("job", "serve", "keda", "rbac", "secret")
#: What ``all`` means: the Secrets are left out, because applied they would undo the real ones.
ALL = ("rbac", "job", "serve", "keda")
#: Texts that PyYAML writes without quotes, and that kubectl reads as numbers and truth values.
_NO_TEXT_IN_GO = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)(?:[eE][-+]?[0-9_]+)?"
    r"|[-+]?0[oxbOXB][0-9a-fA-F_]+|[yYnN]"
)


def release(text: str) -> tuple[int, int]:
    """Read a release of Kubernetes such as ``1.31``, for ``type=`` of an argument."""
    match = re.fullmatch(r"v?([0-9]+)\.([0-9]+)(?:\..*)?", text)
    if match is None:
        raise ArgumentTypeError(f"{text} is no release such as 1.31")
    return int(match[1]), int(match[2])


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--kind",
        action="append",
        choices=(*KINDS, "all"),
        help="what to print: a Job that drains the ensemble (default), a Deployment that serves, "
        "what scales it with KEDA, roles and service accounts, examples of the Secrets; all is "
        "all but the Secrets; may be repeated",
    )
    parser.add_argument("-n", "--namespace", help="instead of what the ensemble file says")
    parser.add_argument("--image", help="instead of what the ensemble file says")
    parser.add_argument(
        "--per-pod",
        type=positive,
        metavar="N",
        default=10,
        help="unfinished simulations for each pod that KEDA aims at (default: 10)",
    )
    parser.add_argument(
        "--kubernetes",
        type=release,
        metavar="RELEASE",
        help="leave out what a release older than 1.29 does not know, such as 1.24",
    )
    add_file_argument(parser)


def _run(args: Namespace, console: Console) -> int:
    from airflow_ensemble.cli.kubernetes.workers import make_workers

    workers = make_workers(load_ensemble(args), image=args.image, namespace=args.namespace)
    console.say(render(_documents(workers, args)).rstrip())
    return 0


def _documents(workers: Workers, args: Namespace) -> list[dict[str, Any]]:
    from airflow_ensemble.cli.registering import new_batch_key
    from airflow_ensemble.engine.index.interface import batch_id
    from airflow_ensemble.kubernetes import manifests

    batch = batch_id(workers.ensemble, workers.settings, new_batch_key())
    made: Mapping[str, Callable[[], list[dict[str, Any]]]] = {
        "job": lambda: [manifests.job(workers, batch, args.kubernetes or manifests.CURRENT)],
        "serve": lambda: [manifests.deployment(workers)],
        "keda": lambda: manifests.autoscaling(workers, args.per_pod),
        "rbac": lambda: manifests.rbac(workers),
        "secret": lambda: manifests.secrets(workers),
    }
    kinds = [kind for one in args.kind or ("job",) for kind in (ALL if one == "all" else (one,))]
    return [document for kind in dict.fromkeys(kinds) for document in made[kind]()]


def render(documents: Sequence[Mapping[str, Any]]) -> str:
    """Return manifests as one text of YAML documents."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes YAML that kubectl reads as what it is."""

    Dumper.add_representer(str, _represent_text)
    return yaml.dump_all(documents, Dumper=Dumper, sort_keys=False, explicit_start=True, width=100)


def _represent_text(dumper: Any, text: str) -> Any:
    style = "'" if _NO_TEXT_IN_GO.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


COMMAND = Command(
    name="manifests",
    summary="Print what Kubernetes is to be told, for `kubectl apply -f -`; change nothing.",
    example="ensemble manifests --kind rbac --kind secret -n footprints\n"
    "ensemble register && ensemble manifests | kubectl create -f -\n"
    "ensemble manifests --kind serve --kind keda | kubectl apply -f -",
    add_arguments=_add_arguments,
    run=_run,
    exit_codes={0: "printed", 2: "pods could not run this ensemble as its file is"},
)
