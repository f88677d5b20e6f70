"""The project's own questions: facts, passages about them, and records in the form that all benchmarks share."""
