"""A Ray cluster to run on: one that exists, or one on this machine that nobody else reaches.

Whoever may speak to a Ray cluster may run any program on it, so that token authentication is
asked for always, and a cluster of our own listens on 127.0.0.1 alone.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from storm_clinic.errors import InputError, StormClinicError

LOCAL = "local"
_TOKENS = "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
# Ray asks for so much at least; what is passed around here is ids and counts.
_OBJECT_BYTES = 100 << 20
_ALWAYS = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Connect to a cluster, and leave it at the end.

    Parameters
    ----------
    address : str
        ``host:port`` or "auto", of a cluster of which this machine is a node and whose token is
        where Ray looks for it; or "local": a cluster is started here, and ended at the end.

    Yields
    ------
    module
        ``ray``.

    Raises
    ------
    InputError
        If Ray is not installed, is in use already, or is told to do without tokens.
    StormClinicError
        If the cluster cannot be reached.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    if mode != "token":
        raise InputError(
            f"is {mode!r}: whoever reaches a cluster without tokens may run any program on it",
            where="RAY_AUTH_MODE",
            fix="Start the cluster with RAY_AUTH_MODE=token, and set the same here.",
        )
    with ExitStack() as stack:
        variables = _ALWAYS | (_only_here() if address == LOCAL else {})
        stack.enter_context(_environment(variables))
        ray = _import_ray()
        if ray.is_initialized():
            raise InputError("Ray is in use already in this process", where="ray")
        if address == LOCAL:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="storm_ray_"))
            stack.callback(ray.shutdown)
            _start(ray, folder)
        else:
            stack.callback(ray.shutdown)
            _connect(ray, address)
        yield ray


def _only_here() -> dict[str, str]:
    """What the processes of a cluster on this machine need to know."""
    found_by = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    return {
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # never on a disk
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's way to say: loopback only
        "PYTHONPATH": found_by,
    }


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "Ray is not installed", where="ray", fix="pip install 'storm-clinic[ray]'"
        ) from error
    return ray


def _start(ray: Any, folder: str) -> None:
    with _ray_errors(ray, LOCAL):
        ray.init(
            address=LOCAL,
            include_dashboard=False,
            object_store_memory=_OBJECT_BYTES,
            logging_level=logging.WARNING,
            _temp_dir=folder,
            _node_ip_address="127.0.0.1",
        )
    host = ray.nodes()[0]["NodeManagerAddress"]
    if not ip_address(host).is_loopback:
        # Ray decides this when it is first imported.
        raise StormClinicError(
            f"a cluster on this machine would listen on {host}",
            where="ray",
            fix="Do not import ray before; or set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 first.",
        )


def _connect(ray: Any, address: str) -> None:
    if "://" in address:
        raise InputError(
            f"{address!r} is not of the form host:port",
            where="ray",
            fix="Run this on a machine of the cluster.",
        )
    with _ray_errors(ray, address):
        ray.init(address=address, logging_level=logging.WARNING)


@contextmanager
def _ray_errors(ray: Any, address: str) -> Iterator[None]:
    try:
        yield
    # What Ray raises where it cannot connect has many types.
    except (ray.exceptions.RayError, OSError, RuntimeError, ValueError) as error:
        raise StormClinicError(
            f"the Ray cluster cannot be used: {' '.join(str(error).split())}",
            where=address,
            fix=f"Is it running, is this machine a node of it, and is its token in {_TOKENS}?",
        ) from error


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process, and put back what was there."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
