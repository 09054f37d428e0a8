"""The config: one YAML file that describes a dataset version, read into typed, frozen values."""
