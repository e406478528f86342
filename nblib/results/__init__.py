"""From finished runs to tables, verdicts and numbers; nothing here trains for itself."""
