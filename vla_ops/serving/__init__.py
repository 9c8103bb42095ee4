"""Policies for robots: openpi's websocket protocol, so that each of its clients can talk to every policy of this project."""
