"""The published methods transcribed literally: one image at a time, plain loops over cells, no masks."""

import math

import torch
from torch import Tensor


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def argmax(scores: dict[int, float]) -> int:
    return max(scores, key=lambda i: (scores[i], -i))


def divprune(features: Tensor, budget: int) -> list[int]:
    n = len(features)
    distance = {(i, j): 1 - cosine(features[i], features[j]) for i in range(n) for j in range(n) if i != j}
    kept: list[int] = []
    for _ in range(budget):
        rest = [i for i in range(n) if i not in kept]
        others = kept if kept else range(n)
        kept.append(argmax({i: min((distance[i, j] for j in others if j != i), default=math.inf) for i in rest}))
    return sorted(kept)


def cdpruner(features: Tensor, relevance: Tensor, budget: int, theta: float | None) -> list[int]:
    """Greedy maximisation of the determinant itself, which the incremental algorithm must agree with."""
    n = len(features)
    span = relevance.max() - relevance.min()
    r = (relevance - relevance.min() + 1e-6) / span if span > 0 else torch.ones(n)
    if theta is not None:
        r = (theta / (2 * (1 - theta)) * r).exp()
    kernel = torch.tensor(
        [[float(r[i]) * cosine(features[i], features[j]) * float(r[j]) for j in range(n)] for i in range(n)]
    ).double()
    kept: list[int] = []
    for _ in range(budget):
        determinants = {i: float(kernel[[*kept, i]][:, [*kept, i]].det()) for i in range(n) if i not in kept}
        kept.append(argmax(determinants))
    return sorted(kept)


def hawk_scores(query: Tensor, key: Tensor, weights: list[float]) -> Tensor:
    """`query (tokens, heads, d)`, `key (cells, key_heads, d)`."""
    tokens, heads, d = query.shape
    scores = torch.zeros(len(key))
    for h in range(heads):
        group = h // (heads // key.shape[1])
        a = torch.tensor(
            [
                sum(float(query[t, h] @ key[j, group]) / math.sqrt(d) for t in range(tokens)) / tokens
                for j in range(len(key))
            ]
        )
        scores += weights[h] / sum(weights) * a / a.norm()
    return scores


def top(scores: Tensor, budget: int) -> list[int]:
    return sorted(sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))[:budget])


def mmtok(features: Tensor, tower: Tensor, question: Tensor, budget: int) -> list[int]:
    n, m = len(features), len(question)
    rows = []
    for t in question:
        logits = torch.tensor([cosine(t, v) / 0.01 for v in features])
        rows.append(logits.softmax(0) / m)
    for u in tower:
        logits = torch.tensor([cosine(u, v) / 0.2 for v in tower])
        rows.append(0.5 * logits.softmax(0) / n)
    best = [0.0] * len(rows)
    kept: list[int] = []
    for _ in range(budget):
        gains = {
            j: sum(max(0.0, float(row[j]) - b) for row, b in zip(rows, best, strict=True))
            for j in range(n)
            if j not in kept
        }
        kept.append(argmax(gains))
        best = [max(b, float(row[kept[-1]])) for row, b in zip(rows, best, strict=True)]
    return sorted(kept)


def scope(features: Tensor, attention: Tensor, budget: int, alpha: float) -> list[int]:
    n = len(features)
    current = [0.0] * n
    kept: list[int] = []
    for _ in range(budget):
        gains = {
            j: float(attention[j]) ** alpha
            * sum(max(0.0, cosine(features[i], features[j]) - current[i]) for i in range(n))
            for j in range(n)
            if j not in kept
        }
        kept.append(argmax(gains))
        current = [max(c, cosine(features[i], features[kept[-1]])) for i, c in enumerate(current)]
    return sorted(kept)


def idpruner(features: Tensor, scores: Tensor, budget: int, balance: float) -> list[int]:
    n = len(features)
    importance = (scores - scores.min()) / (scores.max() - scores.min())
    kept: list[int] = []
    for _ in range(budget):
        values = {
            i: float(importance[i])
            if not kept
            else balance * float(importance[i]) - (1 - balance) * max(cosine(features[i], features[j]) for j in kept)
            for i in range(n)
            if i not in kept
        }
        kept.append(argmax(values))
    return sorted(kept)


def visionzip(attention: Tensor, keys: Tensor, budget: int) -> dict[int, list[int]]:
    """The cells whose mean each token is, by the cell whose place it has."""
    n = len(attention)
    contextual = max(1, round(budget * 10 / 64))
    dominant = top(attention, budget - contextual)
    rest = [i for i in range(n) if i not in dominant]
    targets = rest[:: max(1, len(rest) // contextual)][:contextual]
    groups = {i: [i] for i in [*dominant, *targets]}
    for i in rest:
        if i not in targets:
            groups[argmax({t: cosine(keys[i], keys[t]) for t in targets})].append(i)
    return groups


def density_peaks(features: Tensor, clusters: int) -> list[int]:
    """The centre of each token's cluster."""
    n = len(features)
    distance = [
        [float((features[i] - features[j]).norm()) / features.shape[1] ** 0.5 for j in range(n)] for i in range(n)
    ]
    density = [math.exp(-sum(d**2 for d in sorted(distance[i])[:clusters]) / clusters) for i in range(n)]
    farthest = max(map(max, distance))
    scores = {}
    for i in range(n):
        denser = [j for j in range(n) if density[j] > density[i] or (density[j] == density[i] and j < i)]
        scores[i] = density[i] * min((distance[i][j] for j in denser), default=farthest)
    centers = sorted(scores, key=lambda i: (-scores[i], i))[:clusters]
    return [i if i in centers else min(sorted(centers), key=lambda c: (distance[i][c], c)) for i in range(n)]
