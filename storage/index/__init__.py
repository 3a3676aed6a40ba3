"""Vector indexes: caches of the Catalogue that answer nearest neighbours by cosine."""
