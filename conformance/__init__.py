"""tf-conformance: is it right, is it fast, did it get worse?"""

__version__ = "0.1.0"
