"""Where compiled programs are kept between runs."""

import os

import jax
from etils import epath

from t5x_code.buckets import in_bucket
from t5x_code.recipes.mixture import cache_folder

COMPILED_FOLDER = "compiled"  # in a run's folder or the user's cache folder


def use_compilation_cache(model_dir: epath.PathLike | None = None) -> None:
    """Keeps compiled programs between runs, in the user's cache folder unless JAX's own variables say otherwise.

    Args:
        model_dir: of a run; those of a run in a bucket lie there, as its machines are replaced at each preemption.
    """
    folder = epath.Path(model_dir) if model_dir is not None and in_bucket(model_dir) else cache_folder()
    ours = {
        "jax_compilation_cache_dir": str(folder / COMPILED_FOLDER),
        "jax_persistent_cache_min_compile_time_secs": 0.5,
    }
    for name, value in ours.items():
        if not os.environ.get(name.upper()):
            jax.config.update(name, value)


def compile_anew_for_several_cpus() -> None:
    """Keeps no programs where CPUs of several processes meet: those read from the cache meet in another order."""
    if jax.process_count() > 1 and jax.default_backend() == "cpu":
        jax.config.update("jax_enable_compilation_cache", False)
