"""Scenarios of tasks, readable aloud: which stage follows which, and what people see of it. No logic lives here."""
