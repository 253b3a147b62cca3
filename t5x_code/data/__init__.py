"""From text on disk to batches: declarations, sources, SeqIO tasks, token store, loader."""
