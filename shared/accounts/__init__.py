"""What providers know about the accounts of businesses: whose a number is, and where it delivers to."""
