"""The outside world on one machine: WhatsApp's Graph API, OpenAI's API, and a page to write as a customer."""
