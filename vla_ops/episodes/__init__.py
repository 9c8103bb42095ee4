"""Streams -> one timeline -> episode folders."""
