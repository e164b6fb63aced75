"""What every cloud function shares."""
