"""From documents to token stores."""
