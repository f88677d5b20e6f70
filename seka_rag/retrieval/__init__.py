"""From files to passages to the passages that fit a question; any other retriever is taken as well."""
