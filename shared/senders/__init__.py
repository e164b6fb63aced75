"""Sending through the providers a WhatsApp number may belong to: a module each, listed in registry.py."""
