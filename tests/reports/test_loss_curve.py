"""A run's losses as text: entropy against its definition, the curve's ends, the last validation beside its unigrams."""

import json

import numpy as np
import pytest

from t5x_code.errors import UserError
from t5x_code.reports.loss_curve import draw_curve, entropy, read_metrics, unigram_shares, validation_table


def test_unigram_entropy():
    assert entropy(unigram_shares(np.repeat(np.arange(8), 5), 8)) == pytest.approx(np.log(8))
    assert entropy(unigram_shares(np.full(9, 3), 8)) == 0
    skewed = np.array([0] * 3 + [5])
    assert entropy(unigram_shares(skewed, 8)) == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))


def test_the_curve_falls_from_its_highest_row_to_its_lowest():
    drawn = draw_curve([10, 20, 40], [9.0, 6.0, 5.0], width=40, height=5).splitlines()
    rows = [line.split("|")[1].ljust(40) for line in drawn[:5]]
    assert rows[0].startswith("*") and rows[4].rstrip().endswith("*")
    assert all(sum(row[column] == "*" for row in rows) == 1 for column in range(40))
    assert [float(line.split("|")[0]) for line in drawn[:5]] == [9, 8, 7, 6, 5]
    assert drawn[-1].split() == ["10", "40", "step"]
    # Columns stand for steps, not for entries: step 20 is a third of the way.
    assert rows[3][13] == "*"


def test_a_flat_curve_is_drawn(capsys):
    assert draw_curve([1, 2], [3.0, 3.0]).count("*") == 72


def test_validation_table_takes_the_last_and_sets_the_entropy_beside():
    records = [
        {"step": 5, "loss": 9.0, "validation/code/causal_lm/loss": 8.0},
        {"step": 10, "loss": 7.0, "validation/code/causal_lm/loss": 0.5, "validation/text/infill/loss": 1.0},
        {"step": 11, "loss": 6.9},
    ]
    # Two texts without a common token: of the mixture, 1/4 and 3/4, the entropy is that of the choice more than theirs.
    unigrams = {"code": np.array([0.5, 0.5, 0, 0, 0, 0]), "text": np.array([0, 0, 0.25, 0.25, 0.25, 0.25])}
    shares = {"code/causal_lm": 0.25, "text/infill": 0.75}
    head, *lines = validation_table(records, unigrams, shares).splitlines()
    assert "step 10" in head
    mixed = 0.25 * np.log(2) + 0.75 * np.log(4) - 0.25 * np.log(0.25) - 0.75 * np.log(0.75)
    assert [line.split()[-3:] for line in lines] == [
        ["0.500", "0.693", "0.193"],
        ["1.000", "1.386", "0.386"],
        ["0.875", f"{mixed:.3f}", f"{mixed - 0.875:.3f}"],
    ]


@pytest.mark.parametrize(
    "rest",
    [
        b'{"step": 2, "lo',
        b"\xff\xfe\x00",
        b"3",
        b'{"step": 2, "loss": "?"}',
        b'{"loss": 1.0}',
        b'{"step": "2", "loss": 1.0}',
        b'{"step": 2, "loss": null}',
        b'{"step": 2, "loss": [1.0]}',
        b'{"step": 1%s, "loss": 1.0}' % (b"0" * 400),
    ],
)
def test_lines_that_a_kill_or_a_power_cut_broke_are_left_out(tmp_path, rest):
    (tmp_path / "metrics.jsonl").write_bytes(json.dumps({"step": 1, "loss": 2.0}).encode() + b"\n" + rest)
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 2.0}]


def test_a_folder_in_the_place_of_metrics_is_refused(tmp_path):
    with pytest.raises(UserError, match="is a folder, not the metrics of a run"):
        read_metrics(tmp_path)


def test_losses_that_are_not_finite_are_read_and_leave_a_gap(tmp_path):
    lines = [
        {"step": step, "loss": loss, "validation/code/causal_lm/loss": validation}
        for step, (loss, validation) in enumerate([(3.0, 2.0), (2.5, 2.0), ("nan", 2.0), ("inf", "-inf"), (1.0, "nan")])
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    records = read_metrics(tmp_path / "metrics.jsonl")
    table = validation_table(records, {"code": np.full(4, 0.25)}, {"code/causal_lm": 1.0})
    assert table.splitlines()[1].split()[-3:] == ["nan", "1.386", "nan"]
    drawn = draw_curve([r["step"] for r in records], [r["loss"] for r in records], width=41, height=5).splitlines()
    rows = [line.split("|")[1].ljust(41) for line in drawn[:5]]
    assert [float(line.split("|")[0]) for line in drawn[:5]] == [3, 2.5, 2, 1.5, 1]
    assert [any(row[column] == "*" for row in rows) for column in range(41)] == [True] * 11 + [False] * 29 + [True]
