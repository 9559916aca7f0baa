"""Writes golden.json: losses and gradients of sentence-transformers for random vectors.

python tests/tasks/embedding/make_golden.py        # needs sentence-transformers 6.2 and PyTorch
"""

import json
import pathlib

import numpy as np
import torch
from sentence_transformers.sentence_transformer import losses

ROWS, TEXTS, SIZE, SIZES = 4, 3, 8, [8, 4]


class Vectors(torch.nn.Module):
    """In place of a model: its inputs are the vectors themselves."""

    def forward(self, features):
        return {"sentence_embedding": features["vectors"]}

    def get_embedding_dimension(self):
        return SIZE


def value_and_grad(loss, vectors, labels):
    columns = [torch.tensor(each, requires_grad=True) for each in np.moveaxis(vectors, 1, 0)]
    value = loss([{"vectors": column} for column in columns], labels)
    value.backward()
    grads = torch.stack([column.grad for column in columns], dim=1)
    return {"loss": value.item(), "grad": grads.tolist()}


def main():
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(ROWS, TEXTS, SIZE))
    scores = draw.uniform(size=ROWS)
    model, labels = Vectors(), torch.tensor(scores)
    ranking = losses.MultipleNegativesRankingLoss(model)
    cases = {
        "in_batch_negatives": value_and_grad(ranking, vectors[:, :2], None),
        "hard_negatives": value_and_grad(ranking, vectors, None),
        "cosine": value_and_grad(losses.CosineSimilarityLoss(model), vectors[:, :2], labels),
        "triplet": value_and_grad(losses.TripletLoss(model), vectors, None),
    }
    matryoshka = losses.MatryoshkaLoss(model, losses.MultipleNegativesRankingLoss(model), SIZES)
    cases["matryoshka"] = value_and_grad(matryoshka, vectors[:, :2], None)
    golden = {"vectors": vectors.tolist(), "scores": scores.tolist(), "cases": cases}
    path = pathlib.Path(__file__).with_name("golden.json")
    path.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
