"""The trainer: trains the runs of a pack behind one teacher pass."""
