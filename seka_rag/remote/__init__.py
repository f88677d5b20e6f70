"""A model that a server of ours runs, with the face of a local one."""
