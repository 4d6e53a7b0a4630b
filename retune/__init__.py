"""What all stages stand on: configuration, tracking, chat format, work folders, external tools."""
