"""Towers: what turns an image or a text into features, and the common subspace above them."""
