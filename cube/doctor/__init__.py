"""What a run needs, each looked at with its mend: machine, places, services, cluster."""
