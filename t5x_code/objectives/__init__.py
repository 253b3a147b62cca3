"""Row + random generator -> Example. Pure NumPy, one file per objective."""
