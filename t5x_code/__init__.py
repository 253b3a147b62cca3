"""t5x_code: pretrains code language models in JAX, from raw text to an infilling model."""

import os

# How epath reaches buckets, read when it first does. By gcsfs and s3fs, as TensorFlow takes seconds to load and lies on
# few accelerator hosts. Without lists kept from before, which miss what TensorStore and other processes have written.
os.environ.setdefault("EPATH_USE_TF", "false")
for _protocol in ("GCS", "S3"):
    os.environ.setdefault(f"FSSPEC_{_protocol}", '{"use_listings_cache": false}')

__version__ = "0.1.0"
