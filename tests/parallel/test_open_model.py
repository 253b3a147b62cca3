"""A model that is opened to be asked lies on as many devices as serve it, and says there what it says on one."""

SOURCE = """
import functools, tempfile
import jax, numpy as np
from t5x_code.checkpoints.model_directory import ModelDescription, write_model_directory
from t5x_code.evaluation.logic_equivalence import _fresh_params
from t5x_code.huggingface.conversion import export_model
from t5x_code.inference.generation import GenerationConfig
from t5x_code.inference.infilling import complete
from t5x_code.inference.sampling import Sampling
from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import init_params
from t5x_code.recipes import open_model
from t5x_code.tokens import train_bpe

folder = tempfile.mkdtemp()
tokenizer = train_bpe.train(["def add(a, b):\\n    return a + b\\n"] * 9, vocab_size=300, num_masks=4)
tokenizer.save(folder + "/tokenizer")
config = TransformerConfig(
    num_layers=2, model_dim=36, num_heads=4, num_kv_heads=4, head_dim=9, mlp_dim=144, vocab_size=tokenizer.vocab_size,
    max_length=96, rotary_dim=4, initializer_range=0.6, dtype="float32",
)
params = init_params(config, jax.random.key(0))
write_model_directory(folder + "/model", ModelDescription(config), params, folder + "/tokenizer")

def devices(model):
    return len(jax.tree.leaves(model.params)[0].sharding.device_set)

many, one = open_model.open_model(folder + "/model"), open_model.open_model(folder + "/model", num_prompts=7)
open_model.device_memory_bytes = lambda: 1 << 10
large = open_model.open_model(folder + "/model", num_prompts=1)
how = GenerationConfig(max_new_tokens=9, sampling=Sampling(1.0), num_samples=2)
texts = [[c.text for c in complete(model, ["def add"], how)[0]] for model in (many, one, large)]
export_model(folder + "/model", folder + "/hf")
foreign = open_model.open_model(folder + "/hf")
texts.append([c.text for c in complete(foreign, ["def add"], how)[0]])
fresh = _fresh_params(many, 0)
jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), fresh, params)
shardings = [jax.tree.map(lambda leaf: leaf.sharding, tree) for tree in (fresh, many.params)]
print(*map(devices, (many, one, large, foreign)), len(set(map(str, texts))), shardings[0] == shardings[1])
"""


def test_a_model_lies_on_the_devices_that_its_width_divides_over_and_one_prompt_on_one_that_has_room(
    run_on_eight_devices,
):
    assert run_on_eight_devices(SOURCE) == "6 1 6 6 1 True"
