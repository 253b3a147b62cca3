"""What people look at: pages of examples, curves, tables and pictures. Reads files and plain arrays."""
