"""The verb of phase one: from AOIs to sealed cubes."""
