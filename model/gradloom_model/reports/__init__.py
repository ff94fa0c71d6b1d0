"""What `gradloom estimate` shows: terminal, files, one HTML page."""
