"""Annotations of people: tables, ELAN files and subtitles, all untrusted, as clips."""
