"""The cluster: packs as job arrays, submitted by submitit. Knows `benchmark`; only the command line knows it."""
