"""What is kept and how: safe files, trees of values, fingerprints, bounded histories. Knows no contract."""
