"""`threadlog bench notify`, by parts."""
