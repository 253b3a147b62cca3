"""Evaluates a model, or samples that were made elsewhere.

    python launch/evaluate.py --model_dir=runs/quickstart --eval=completion --output=results.json
    python launch/evaluate.py --model_dir=runs/quickstart --eval=humaneval --allow_code_execution --output=results.json
    python launch/evaluate.py --eval=humaneval --samples=samples.jsonl --allow_code_execution --output=results.json

A model is a model directory or a Hugging Face folder. Samples lie beside the output, results.samples.jsonl: run the
same command again and a killed evaluation goes on where it stopped.
"""

from absl import flags

from t5x_code.errors import UserError
from t5x_code.recipes.command_line import run
from t5x_code.reports.metrics_table import metric_lines, selection_table

FLAGS = flags.FLAGS
flags.DEFINE_string("model_dir", None, "Model directory, or a Hugging Face folder.")
flags.DEFINE_string("before", None, "logic_equivalence: a second model, whose similarities stand beside.")
flags.DEFINE_integer("step", None, "Which checkpoint; the newest by default.")
flags.DEFINE_string("eval", None, "Name of the evaluation; an unknown one lists them.")
flags.DEFINE_string("output", None, "JSON file for the results.")
flags.DEFINE_string("data", None, "The benchmark's file, or held-out code: a store's split or a folder of *.py. "
                    "loss: the folder of the recipe's token stores.")  # fmt: skip
flags.DEFINE_string("samples", None, "Score these samples ({task_id, completion} lines) with no model.")
flags.DEFINE_string("protocol", None, "Prompts, truncation and draws by name; default: the evaluation's own.")
flags.DEFINE_string("variant", None, "mbpp: all, not the test split alone; functions: begun as HumanEval's are. "
                    "incremental: humaneval or mbpp. "
                    "logic_equivalence: all_problems of the file; verdict: also ask in words.")  # fmt: skip
flags.DEFINE_integer("limit", None, "Take the first problems only.")
flags.DEFINE_float("temperature", None, "Default: the protocol's.")
flags.DEFINE_float("top_p", None, "Default: the protocol's.")
flags.DEFINE_integer("top_k", None, "Default: the protocol's.")
flags.DEFINE_integer("num_samples", None, "Of each problem; default: the protocol's.")
flags.DEFINE_integer("max_new_tokens", None, "Default: the protocol's.")
flags.DEFINE_integer("seed", 0, "Of all draws.")
flags.DEFINE_integer("batch_size", 32, "Answers that are written at a time.")
flags.DEFINE_bool("int8", False, "Round the weights to 8 bits when generating.")
flags.DEFINE_bool("allow_code_execution", False, "Run programs that nobody has read, in a sandbox.")
flags.DEFINE_bool("allow_without_isolation", False, "Run them even where only resource limits hold them.")
flags.DEFINE_enum("isolation", None, ["bubblewrap", "namespaces", "rlimits"], "Default: the strongest that works.")
flags.DEFINE_integer("workers", None, "Sandboxes at a time; default: one per processor that it may use.")


def main(argv: list[str]) -> None:
    """Checks the flags, evaluates and writes the results."""
    if FLAGS.eval is None or FLAGS.output is None or len(argv) > 1:
        raise UserError("give --eval and --output, and --model_dir or --samples")
    # Imported here, so that --help and a misspelt flag answer at once.
    from t5x_code.recipes.evaluate import EvaluationCommand, evaluate_command

    names = [field for field in EvaluationCommand.__dataclass_fields__ if field in FLAGS]
    results = evaluate_command(EvaluationCommand(**{name: FLAGS[name].value for name in names}))
    if results.get("not_attempted"):
        left_out = f"{len(results['not_attempted'])} problems have no sample and are left out"
        print(f"{left_out}; what follows is of {results['num_problems']}")
    if results.get("truncated_prompts"):
        print(f"{results['truncated_prompts']} prompts did not fit the model's context and were cut")
    if "similarities" in results:
        print(selection_table(results["metrics"]))
        print(f"their intervals, ranks and correlations are in {FLAGS.output}")
    else:
        print(metric_lines(results["metrics"], results.get("confidence_95", {})))


if __name__ == "__main__":
    run(main)
