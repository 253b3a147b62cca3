"""Converts between Hugging Face folders and model directories.

python launch/convert.py import --source=HF_DIR --target=MODEL_DIR [--family=llama] [--dtype=bfloat16]
python launch/convert.py export --source=MODEL_DIR --target=HF_DIR [--dtype=bfloat16] [--plain]
"""

import tempfile

from absl import flags
from etils import epath

from t5x_code.errors import UserError
from t5x_code.huggingface.families import FAMILIES
from t5x_code.huggingface.family import DTYPES
from t5x_code.recipes.command_line import run

FLAGS = flags.FLAGS
flags.DEFINE_enum("family", None, list(FAMILIES), "By default what config.json or the model directory says.")
flags.DEFINE_string("source", None, "Folder to read.")
flags.DEFINE_string("target", None, "Folder to make; must not exist.")
flags.DEFINE_enum("dtype", "float32", list(DTYPES), "Type of the tensors that are written.")
flags.DEFINE_integer("mp_num", None, "CodeGen: layout of the Hugging Face checkpoint, where its config.json is silent.")
flags.DEFINE_bool("plain", False, "export: of a vocabulary split by modality the code rows alone, as a plain model.")
flags.DEFINE_integer("step", None, "export: which checkpoint; the newest by default.")


def main(argv: list[str]) -> None:
    """Checks the command line, then converts."""
    if argv[1:] not in (["import"], ["export"]) or not FLAGS.source or not FLAGS.target:
        raise UserError("write: convert.py import|export --source=DIR --target=DIR")
    if argv[1] == "import" and (FLAGS.plain or FLAGS.step is not None):
        raise UserError(f"{'--plain' if FLAGS.plain else '--step'} is for export; leave it out of an import")
    # Imported here, so that --help and a misspelt flag answer at once.
    from t5x_code.checkpoints.model_directory import MODALITY, TOKENIZER_FOLDER
    from t5x_code.checkpoints.plain_model import write_plain_model
    from t5x_code.huggingface.conversion import export_model, import_model
    from t5x_code.models.decoder import count_params
    from t5x_code.tokens.tokenizer import TOKENIZER_FILE

    options = (FLAGS.family, FLAGS.mp_num, FLAGS.dtype)
    if argv[1] == "import":
        description = import_model(FLAGS.source, FLAGS.target, *options)
    elif FLAGS.plain:
        with tempfile.TemporaryDirectory() as folder:
            write_plain_model(FLAGS.source, f"{folder}/plain", FLAGS.step)
            description = export_model(f"{folder}/plain", FLAGS.target, *options)
    else:
        description = export_model(FLAGS.source, FLAGS.target, *options, step=FLAGS.step)
        if MODALITY in description.extra:
            print(f"{FLAGS.target} has rows for code that no tokenizer gives: without --plain it reads all as text")
    source, target = epath.Path(FLAGS.source), epath.Path(FLAGS.target)
    if argv[1] == "import":
        target /= TOKENIZER_FOLDER
    else:
        source /= TOKENIZER_FOLDER
    if not (source / TOKENIZER_FILE).exists():
        print(f"{source} has no {TOKENIZER_FILE}: put one into {target} before text is read or written")
    print(f"{FLAGS.target}: {description.family}, {count_params(description.config):,} parameters")


if __name__ == "__main__":
    run(main)
