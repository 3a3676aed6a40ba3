"""What is kept: Spool (received, not yet read), Catalogue (the only truth), renditions, and the vector index.

Knows neither encoders nor daemon.
"""
