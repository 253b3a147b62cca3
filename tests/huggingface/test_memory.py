"""A model is never in memory as a whole while it is converted."""

import json
import subprocess
import sys

import numpy as np
import pytest

from t5x_code.huggingface.families import FAMILIES
from t5x_code.huggingface.family import read_config
from t5x_code.huggingface.parameters import shapes_by_path, their_shapes
from t5x_code.huggingface.safetensors_file import write_safetensors

HF = {
    "model_type": "llama",
    "vocab_size": 16384,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "max_position_embeddings": 2048,
}
MEASURE = """
import sys, threading
from t5x_code.huggingface.conversion import export_model, import_model

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))

convert = {"import": import_model, "export": export_model}[sys.argv[1]]
convert(sys.argv[2] + "_small", sys.argv[3] + "_small")  # what libraries load on their first use does not grow
before, peak, done = anonymous(), [0], threading.Event()
def sample():
    while not done.wait(0.002):
        peak[0] = max(peak[0], anonymous())
thread = threading.Thread(target=sample)
thread.start()
convert(sys.argv[2], sys.argv[3])
done.set()
thread.join()
print(peak[0] - before)
"""


def save_random_checkpoint(folder, hf):
    family = FAMILIES["llama"]
    config = read_config(family, hf)
    shapes = their_shapes(family, config, hf)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(hf))
    values = np.random.default_rng(0).standard_normal(max(np.prod(shape) for _, shape in shapes), dtype=np.float32)
    write_safetensors(folder, shapes, (values[: np.prod(s)].reshape(s) for _, s in shapes), np.float32)
    return config


@pytest.mark.slow
def test_anonymous_memory_stays_under_a_quarter_of_the_model_and_one_stacked_tensor(tmp_path):
    save_random_checkpoint(tmp_path / "theirs_small", HF | {"num_hidden_layers": 1, "vocab_size": 64})
    config = save_random_checkpoint(tmp_path / "theirs", HF)
    sizes = [4 * int(np.prod(shape)) for shape in shapes_by_path(config, padded=True).values()]
    limit = sum(sizes) / 4 + max(sizes)
    for arguments in (("import", "theirs", "ours"), ("export", "ours", "back")):
        command = [sys.executable, "-c", MEASURE, arguments[0], *(str(tmp_path / name) for name in arguments[1:])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) < limit, f"{arguments[0]}: {int(done.stdout) / 2**20:.0f} of {limit / 2**20:.0f} MiB"
