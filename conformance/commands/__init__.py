"""The commands of ``conformance``, a module each: thin over the functions of the rooms."""
