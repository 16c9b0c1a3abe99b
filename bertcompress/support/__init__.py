"""What every room needs and none is about: files, progress, processes, words for machines."""
