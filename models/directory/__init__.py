"""Who exists: organizations, people, teams, projects, tokens; import and export."""
