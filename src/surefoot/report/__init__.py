"""Pages made from run directories: report, tour, comparison; and the progress line."""
