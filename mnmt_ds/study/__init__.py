"""Studies: many runs over one corpus, started, continued, evaluated and set side by side by one command"""
