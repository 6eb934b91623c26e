"""Visual instruction tuning, whole."""
