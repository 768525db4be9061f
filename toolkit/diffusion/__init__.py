"""The mathematics: schedules, denoisers, samplers, starts."""
