"""Files of results are read by strict readers of JSON."""

import json

import numpy as np

from t5x_code.output_file import jsonable


def test_numbers_that_json_has_not_are_texts():
    results = {
        "metrics": {"loss": float("nan"), "speed": np.float64(-np.inf), "right": 0.5},
        "lines": [(1, float("inf"))],
    }
    written = json.dumps(jsonable(results), allow_nan=False)
    assert json.loads(written) == {
        "metrics": {"loss": "nan", "speed": "-inf", "right": 0.5},
        "lines": [[1, "inf"]],
    }
