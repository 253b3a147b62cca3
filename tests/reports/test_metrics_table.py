"""Figures of an evaluation as text."""

from t5x_code.reports.metrics_table import metric_lines, selection_table


def test_a_line_for_each_figure():
    text = metric_lines({"pass@1": 0.5, "pass@10": 1.0}, {"pass@1": [0.25, 0.75]})
    assert text.splitlines() == [f"{'pass@1':<32}0.5000   [0.2500, 0.7500]", f"{'pass@10':<32}1.0000"]


def test_a_selection_has_a_line_for_each_way():
    metrics = {
        "pos|neg": 0.75,
        "mean": 0.625,
        "pos/mrr": 0.3,
        "correlation_with_bag_of_tokens": 0.1,
        "tf_idf/mean": 0.5,
    }
    assert selection_table(metrics).splitlines() == [
        "          pos|neg     mean",
        "model      0.7500   0.6250",
        "tf_idf              0.5000",
    ]
