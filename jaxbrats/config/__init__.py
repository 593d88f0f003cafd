"""What a run can be told: settings that check themselves, and reading them from files and the command line."""
