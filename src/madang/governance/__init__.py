"""What an auditor needs: records, the proof that they are whole, and what may leave a home."""
