"""What people look at: curves and tables of a run. Reads files and plain arrays."""
