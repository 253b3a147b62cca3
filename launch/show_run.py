"""Shows how a run went: its training curve, and the validation losses beside the held-out text's unigram entropy.

python launch/show_run.py --model_dir=runs/quickstart
"""

import numpy as np
from absl import flags
from etils import epath

from t5x_code.errors import UserError
from t5x_code.recipes.command_line import run
from t5x_code.reports.loss_curve import draw_curve, read_metrics, unigram_shares, validation_table

FLAGS = flags.FLAGS
flags.DEFINE_string("model_dir", None, "A training run's folder.")


def main(argv: list[str]) -> None:
    """Prints the curve, then the table, if there has been a validation."""
    if FLAGS.model_dir is None or len(argv) > 1:
        raise UserError("give --model_dir, the folder of a training run")
    # Imported here, so that --help and a misspelt flag answer at once.
    from t5x_code.recipes.run_files import read_run_stores
    from t5x_code.training.metrics_writer import METRICS_FILE

    metrics = epath.Path(FLAGS.model_dir) / METRICS_FILE
    if not metrics.exists():
        raise UserError(f"{metrics} does not exist: {FLAGS.model_dir} holds no training run")
    records = read_metrics(metrics)
    trained = [record for record in records if "loss" in record]
    finite = sum(np.isfinite(record["loss"]) for record in trained)
    if finite < 2:
        raise UserError(f"a curve needs 2 logged steps with a finite loss, of which {metrics} has {finite}")
    print(f"training loss, nats per token, of {FLAGS.model_dir}")
    print(draw_curve([record["step"] for record in trained], [record["loss"] for record in trained]))
    stores = read_run_stores(FLAGS.model_dir)
    evaluated = {name.split("/")[1] for record in records for name in record if name.startswith("validation/")}
    unigrams = {task: held_out_unigrams(folder) for task, folder in stores.folders.items() if task in evaluated}
    print()
    print(validation_table(records, unigrams, stores.shares) if evaluated else "no validation so far")


def held_out_unigrams(store_folder: str) -> np.ndarray:
    """How often each token occurs in a store's validation split, [V]."""
    from t5x_code.data.declarations import VALIDATION
    from t5x_code.data.token_store import TokenStore

    store = TokenStore.open(f"{store_folder}/{VALIDATION}")
    shards = [store.read(shard, 0, int(store.shard_tokens[shard])) for shard in range(store.num_shards)]
    return unigram_shares(np.concatenate(shards), store.manifest.vocab_size)


if __name__ == "__main__":
    run(main)
