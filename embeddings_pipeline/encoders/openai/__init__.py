"""Models of OpenAI and of endpoints that speak its protocol."""
