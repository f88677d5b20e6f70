"""The only floor that knows transformers: where keys are, how text becomes tokens, how hooks come and go."""
