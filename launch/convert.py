"""Converts between Hugging Face folders and model directories.

python launch/convert.py import --family=codegen --source=HF_DIR --target=MODEL_DIR
python launch/convert.py export --source=MODEL_DIR --target=HF_DIR
"""

from absl import flags

from t5x_code.errors import UserError
from t5x_code.huggingface.conversion import export_model, import_model
from t5x_code.models.decoder import count_params
from t5x_code.recipes.command_line import run

FLAGS = flags.FLAGS
flags.DEFINE_string("family", "codegen", "Family of the model that is imported.")
flags.DEFINE_string("source", None, "Folder to read.")
flags.DEFINE_string("target", None, "Folder to make; must not exist.")
flags.DEFINE_integer("mp_num", None, "CodeGen: layout of the Hugging Face checkpoint, where its config.json is silent.")
flags.DEFINE_integer("step", None, "export: which checkpoint; the newest by default.")


def main(argv: list[str]) -> None:
    """Checks the command line, then converts."""
    if argv[1:] not in (["import"], ["export"]) or not FLAGS.source or not FLAGS.target:
        raise UserError("write: convert.py import|export --source=DIR --target=DIR")
    if argv[1] == "import":
        description = import_model(FLAGS.family, FLAGS.source, FLAGS.target, FLAGS.mp_num)
    else:
        description = export_model(FLAGS.source, FLAGS.target, FLAGS.mp_num, FLAGS.step)
    print(f"{FLAGS.target}: {description.family}, {count_params(description.config):,} parameters")


if __name__ == "__main__":
    run(main)
