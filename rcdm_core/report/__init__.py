"""What a probe shows: picture grids and pages that need no other file."""
