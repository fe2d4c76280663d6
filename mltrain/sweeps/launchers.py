"""Hydra's engines of a sweep: what each needs, and how many cores a job of it may use."""

from __future__ import annotations

import importlib.util
import os
import shutil
import warnings
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mltrain.errors import ConfigError

# What a `_target_` of hydra.launcher or hydra.sweeper begins with: the package to install, and our extra for it.
PLUGINS = {
    "hydra_plugins.hydra_joblib_launcher": ("hydra-joblib-launcher", "joblib"),
    "hydra_plugins.hydra_submitit_launcher": ("hydra-submitit-launcher", "slurm"),
    "hydra_plugins.hydra_ray_launcher": ("hydra-ray-launcher", "ray"),
    "hydra_plugins.hydra_optuna_sweeper": ("hydra-optuna-sweeper", "tune"),
}
KINDS = {
    "hydra._internal.core_plugins.basic_launcher.": "basic",
    "hydra_plugins.hydra_joblib_launcher.": "joblib",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher": "submitit_local",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher": "slurm",
    "hydra_plugins.hydra_ray_launcher.ray_launcher.": "ray",
}


def kind_of(launcher: DictConfig) -> str:
    """basic, joblib, submitit_local, slurm, ray, or other."""
    target = str(launcher.get("_target_"))
    return next((kind for start, kind in KINDS.items() if target.startswith(start)), "other")


def check_installed(settings: DictConfig) -> None:
    """Refuse a launcher or sweeper whose package, or Slurm itself, is not there.

    `settings`: the `hydra` node of a composed config.
    """
    for group in ("launcher", "sweeper"):
        target = str(settings[group].get("_target_"))
        for start, (package, extra) in PLUGINS.items():
            if target.startswith(start) and not _is_there(start):
                option = settings.runtime.choices.get(f"hydra/{group}")
                raise ConfigError(f"hydra/{group}={option} needs {package}: pip install 'mltrain[{extra}]'")
    if kind_of(settings.launcher) == "slurm" and shutil.which("srun") is None:
        raise ConfigError(
            "hydra/launcher=slurm: there is no srun on this machine, so it is not in a Slurm cluster; start the sweep "
            "on a login node, or run its jobs side by side here: hydra/launcher=joblib"
        )


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def jobs_at_once(settings: DictConfig, jobs: int | None) -> int | None:
    """How many jobs run side by side on this machine; None where the engine decides or where they run elsewhere."""
    kind, launcher = kind_of(settings.launcher), settings.launcher
    sweeper = settings.sweeper
    batch = sweeper.get("max_batch_size") or sweeper.get("n_jobs") or jobs  # of Hydra's own sweeper, of Optuna's
    limit = min((count for count in (batch, jobs) if count is not None), default=None)
    if kind == "basic":
        return 1
    if kind == "joblib":
        cores, asked = _cores(), int(launcher.n_jobs)
        asked = max(1, cores + 1 + asked) if asked < 0 else asked  # joblib's -1 is all, -2 all but one
        return asked if limit is None else min(asked, limit)
    return limit if kind == "submitit_local" else None


def cores_of_a_job(settings: DictConfig, at_once: int | None) -> int | None:
    """The cores that a job of a sweep may use; None where the engine says so itself, or it has all."""
    kind = kind_of(settings.launcher)
    if kind == "ray":
        return max(1, int(settings.launcher.ray.remote.get("num_cpus", 1)))
    if kind in ("joblib", "submitit_local") and at_once is not None:
        return max(1, _cores() // at_once)
    return None


def start_ray(launcher: DictConfig, paths: str) -> None:
    """Start Ray, or join the cluster of `ray.init.address`; jobs import from `paths` too.

    The launcher's own start would hand a running cluster the size of its object store, which Ray refuses, and a job
    that wants more than this machine has would wait for ever.

    Raises:
        ConfigError: this machine has not what a job wants, or there is no cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a job without GPUs keeps what the user hid
    import ray

    init: Any = OmegaConf.to_container(launcher.ray.init, resolve=True)
    remote: Any = OmegaConf.to_container(launcher.ray.remote, resolve=True)
    init.setdefault("runtime_env", {"env_vars": {"PYTHONPATH": paths}})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(**init)
    except (ConnectionError, ValueError, TypeError) as error:
        raise ConfigError(f"hydra.launcher.ray.init: {error}") from error
    if init.get("address") is not None:
        return  # a cluster may grow
    there = ray.cluster_resources()
    for key, name in (("num_gpus", "GPU"), ("num_cpus", "CPU")):
        if (wanted := remote.get(key) or 0) > there.get(name, 0):
            ray.shutdown()
            raise ConfigError(
                f"hydra.launcher.ray.remote.{key}={wanted}: this machine has {there.get(name, 0):g}, and no job would "
                f"ever start; add hydra.launcher.ray.remote.{key}=NUMBER, or hydra.launcher.ray.init.address=auto to "
                "run on a cluster"
            )


def stop_ray() -> None:
    import ray

    ray.shutdown()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
