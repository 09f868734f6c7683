"""Writers of files that leave a log: its events, as they were recorded (`log`)."""
