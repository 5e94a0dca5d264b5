"""The layers: tokens -> q, k, v -> output, with the matrices WQ, WK, WV and WO in plain sight."""
