"""One model with its bank: text in, steered answers and reports out."""
