"""From the bytes of a file to its text, one module a kind. Nothing here opens files, or needs torch."""
