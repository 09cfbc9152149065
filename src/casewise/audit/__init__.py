"""The audit: can the label be told, or the test be passed, from what should not tell it?"""
