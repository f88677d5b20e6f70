"""Learning a bank: contrastive data, key statistics, subspaces, choice of heads."""
