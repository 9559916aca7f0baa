"""Published results on GLUE, to stand beside a run's own."""

PAPER = {
    ("CoLA", "mcc"): 52.1,
    ("SST-2", "accuracy"): 93.5,
    ("MRPC", "f1"): 88.9,
    ("STS-B", "spearman"): 85.8,
    ("QQP", "f1"): 71.2,
    ("MNLI", "accuracy"): 84.6,
    ("MNLI-mm", "accuracy"): 83.4,
    ("QNLI", "accuracy"): 90.5,
    ("RTE", "accuracy"): 66.4,
}
"""BERT-base on the test sets, by the leaderboard (Devlin et al. 2019, table 1)."""

HUGGING_FACE = {
    ("CoLA", "mcc"): 56.53,
    ("SST-2", "accuracy"): 92.32,
    ("MRPC", "f1"): 88.85,
    ("MRPC", "accuracy"): 84.07,
    ("STS-B", "pearson"): 88.64,
    ("QQP", "accuracy"): 90.71,
    ("MNLI", "accuracy"): 83.91,
    ("MNLI-mm", "accuracy"): 84.10,
    ("QNLI", "accuracy"): 90.66,
    ("RTE", "accuracy"): 65.70,
    ("WNLI", "accuracy"): 56.34,
}
"""bert-base-cased on the dev rows, one seed (README of transformers' run_glue.py)."""
