"""What people look at: prompts in colour, pictures of banks."""
