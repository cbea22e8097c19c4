"""Workers: processes that train packs, on this machine or as jobs of a cluster."""
