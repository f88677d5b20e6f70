"""Slow loops, straight from the equations, that share no code with the library."""

from __future__ import annotations

import numpy as np


def edited_keys(keys, weights, positive, gain, negative=None, gain_neg=0.0):
    """k' = k + w g+ P+ k, or k + w (g+ P+ k + g- P- k) / 2; keys [B, T, H, D], weights [B, T], P [H, D, D]."""
    keys = np.asarray(keys.tolist(), np.float64)
    out = keys.copy()
    for b in range(keys.shape[0]):
        for t in range(keys.shape[1]):
            for h in range(keys.shape[2]):
                if weights[b][t] == 0:
                    continue
                k = keys[b, t, h]
                delta = gain * (np.asarray(positive[h], np.float64) @ k)
                if gain_neg != 0.0:
                    delta = (delta + gain_neg * (np.asarray(negative[h], np.float64) @ k)) / 2
                out[b, t, h] = k + weights[b][t] * delta
    return out


def learned_projection(neutral, relevant, energy):
    """P+ of one head from keys [n, D]: the left singular vectors of H^T H+ / n that hold the energy."""
    n, d = neutral.shape
    omega = np.zeros((d, d))
    for h, hp in zip(np.asarray(neutral, np.float64), np.asarray(relevant, np.float64), strict=True):
        omega += np.outer(h, hp) / n
    u, s, _ = np.linalg.svd(omega)
    rank = next(r for r in range(1, d + 1) if s[:r].sum() / s.sum() >= energy)
    p = np.zeros((d, d))
    for j in range(rank):
        p += np.outer(u[:, j], u[:, j])
    return p, rank


def token_overlaps(offsets, spans):
    """Which tokens share at least one character with a span."""
    return [any(set(range(s, e)) & set(range(a, b)) for a, b in spans) for s, e in offsets]


def expert_weights(query, experts, router, top_k):
    """alpha of one head from its unit query [D]; experts: (U [D, R], s [R]) or None where an expert lacks the head."""
    scores = []
    for expert in experts:
        c = 0.0
        if expert is not None:
            u, s = expert
            for j in range(min(top_k, len(s))):
                dot = float(np.dot(query, u[:, j]))
                c += {"signed": dot * s[j], "energy": dot * dot * s[j], "uniform": 1.0 / min(top_k, len(s))}[router]
        scores.append(c)
    return [c / max(abs(x) for x in scores) for c in scores]


def routed_keys(keys, queries, last, weights, experts, gain, router, top_k):
    """k' = k + w g sum_m alpha_m U_m U_m^T k; keys [B, T, H, D], queries [B, T, H G, D], experts[m][h] as above."""
    keys, queries = np.asarray(keys.tolist(), np.float64), np.asarray(queries.tolist(), np.float64)
    out, groups = keys.copy(), queries.shape[2] // keys.shape[2]
    for b in range(keys.shape[0]):
        for h in range(keys.shape[2]):
            of_head = [bank[h] for bank in experts]
            if all(e is None for e in of_head):
                continue
            q = sum(queries[b, last[b], h * groups + g] for g in range(groups)) / groups
            alpha = expert_weights(q / np.linalg.norm(q), of_head, router, top_k)
            for t in range(keys.shape[1]):
                for a, expert in zip(alpha, of_head, strict=True):
                    if expert is not None and weights[b][t] != 0:
                        u = expert[0][:, :top_k]
                        out[b, t, h] += weights[b][t] * gain * a * (u @ (u.T @ keys[b, t, h]))
    return out


def group_bias(keys, weights, queries, bias, scale, inverse, form, distances):
    """Keys [B, T, H, D] with a bias b: each token gets the shortest vector that its group's queries [B, Q, D] score b / scale.

    The vector is turned to the distance from the last token; in the constant form it is that of queries turned by every
    distance, in the mean. Halves of D hold the pairs; inverse: [D / 2] frequencies.
    """
    import math

    import torch

    half = keys.shape[-1] // 2

    def turned(vector, distance):
        out = vector.clone()
        for i, frequency in enumerate(inverse.tolist()):
            c, s = math.cos(distance * frequency), math.sin(distance * frequency)
            out[i], out[i + half] = vector[i] * c - vector[i + half] * s, vector[i + half] * c + vector[i] * s
        return out

    steps = [math.exp(math.log(distances[0]) + i / 63 * math.log(distances[1] / distances[0])) for i in range(64)]
    out, groups = keys.double().clone(), queries.shape[1] // keys.shape[2]
    for b in range(keys.shape[0]):
        for h in range(keys.shape[2]):
            group = [queries[b, h * groups + g].double() for g in range(groups)]
            if form == "constant":
                group = [sum(turned(q, round(d)) for d in steps) / 64 for q in group]
            x = torch.linalg.lstsq(torch.stack(group), torch.ones(groups, 1).double(), driver="gelsd").solution[:, 0]
            for t in range(keys.shape[1]):
                moved = x if form == "constant" else turned(x, keys.shape[1] - 1 - t)
                out[b, t, h] += weights[b, t].double() * bias / scale * moved
    return out
