"""HTML: small pieces of values, drawings, and whole pages."""
