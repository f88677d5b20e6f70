"""Text with highlights: spans, prompts, and where a template put its values. Standard library only."""
