"""actions: what carries a ban out. One class a file, five verbs each: start, ban, release, held, stop."""
