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
