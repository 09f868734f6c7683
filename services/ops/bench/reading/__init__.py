"""`threadlog bench read`: what pages cost, beside servers that do less."""
