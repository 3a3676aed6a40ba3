"""Reading DICOM objects and encoding them into one common subspace. Knows neither storage nor daemon."""
