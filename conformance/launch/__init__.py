"""How it is started: a case, a profile and a stack come to argv and environment, and a watched child."""
