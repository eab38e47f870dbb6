"""Shared algorithms that know nothing of Surefoot: losses, sets, Krylov, intervals, statistical bounds."""
