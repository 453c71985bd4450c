"""Training: one loop, what is trained, and how it is measured meanwhile."""
