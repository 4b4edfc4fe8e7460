"""Who may call a service and how much: TLS, tokens, scopes and limits. Knows nothing of runs."""
