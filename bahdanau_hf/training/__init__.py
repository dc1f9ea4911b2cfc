"""A run, from arguments to a released checkpoint."""
