from bertjax.report.charts import charts_of
from bertjax.rundir.records import Metric


def test_the_main_metric_comes_first_and_a_group_shares_a_chart():
    metrics = {
        "loss": Metric("loss", "the loss", "min"),
        "rank_1": Metric("rank_1", "1 to 9", "max", group="accuracy by rank"),
        "rank_2": Metric("rank_2", "10 up", "max", ("chance", 0.1), "accuracy by rank"),
    }
    records = [
        {"step": step, "kind": "eval", "other": 1.0, "rank_2": 0.5, "rank_1": 0.25, "loss": 2.0}
        for step in (1, 2)
    ]
    charts = charts_of(records, metrics)
    assert [chart.title for chart in charts] == ["the loss", "accuracy by rank, held out", "other"]
    assert [line.label for line in charts[1].lines] == ["1 to 9", "10 up"]
    assert charts[1].references == [("10 up: chance", 0.1)]
    assert charts[1].lines[0].points == [(1, 0.25), (2, 0.25)]
