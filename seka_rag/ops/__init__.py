"""The arithmetic of key editing: tensors in, tensors out. No files, no models."""
