"""Grafana dashboards as code; `python -m dashboards` writes their JSON and sends it to a Grafana."""
