"""What every Heliograph service's main needs: settings, logs, metrics, traces, health, shutdown, tokens."""
