"""What goes out: weights of finished runs and curves of all runs, in the formats of other programs."""
