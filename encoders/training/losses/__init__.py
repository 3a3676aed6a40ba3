"""One loss a file; `losses.total` adds up those that an experiment names."""
