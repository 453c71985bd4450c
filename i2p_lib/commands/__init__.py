"""What people type: one module for each group of commands of `i2p`."""
