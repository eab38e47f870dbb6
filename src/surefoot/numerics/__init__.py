"""Shared algorithms that know nothing of Surefoot. Import the module you need."""
