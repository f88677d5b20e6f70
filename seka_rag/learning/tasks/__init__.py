"""Contrastive triples of several kinds of task, one file each: what the experts of AdaSEKA are learned from."""
