"""The directory of organizations, people, teams, projects and tokens, with its import and export."""
