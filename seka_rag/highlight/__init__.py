"""Which characters of the retrieved passages to highlight for a question, and which passages may be highlighted."""
