"""The daemon: three roles that talk only through storage. The only package that knows encoders and storage.

::

    INGEST  PACS --C-STORE--> listener --bytes--> Spool --> worker: Reader --> Encoder --float32--> Catalogue
    QUERY   workstation --C-FIND--> finder: SimilarityQuery --> Encoder|Catalogue (vector) --> VectorIndex --> Match

This import name is also that of PyPI's python-daemon: install cxrfind in a virtual environment of its own
(``cxrfind check-config`` verifies which one is meant).
"""

__version__ = "0.1.0"
