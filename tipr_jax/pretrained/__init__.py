"""Weights from elsewhere: key tables between other layouts and our parameter tree. numpy only."""
