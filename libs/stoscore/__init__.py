"""What two or more stos services share. Lowest first: units, limits, errors, messages, subjects (pure),
then plugins, settings, telemetry, identity, then bus (NATS), then host (runs services in one process)."""
