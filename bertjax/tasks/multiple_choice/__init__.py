"""Multiple choice: which of the answers to a question is right?"""
