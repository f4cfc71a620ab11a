"""The command line: it parses, calls rcdm_core and shows; there is no science in here."""
