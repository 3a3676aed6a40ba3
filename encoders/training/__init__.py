"""Training, measuring and exporting the model; nothing here is imported by the running service."""
