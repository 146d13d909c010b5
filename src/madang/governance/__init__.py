"""What an auditor needs: records that can't be changed unseen, and the proof of it."""
