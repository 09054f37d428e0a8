"""The config: one YAML file describes a dataset version whole, and becomes typed, frozen values once."""
