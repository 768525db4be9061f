"""Studies: runs that are trained, scored and compared by one file."""
